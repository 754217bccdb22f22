"""The scorer against the model in this process, over every kind of field."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mec.bundle import open_bundle
from mec.config import parse_config
from mec.data.vocabulary import Vocabularies
from mec.errors import BundleError, ConfigError, DataError, SpaceError
from mec.publish.online_value import HeadRow
from mec.quantize.storage import Floats
from mec.serving.building import write_scorer
from mec.serving.scorer import Scorer
from mec.serving.sources import BundleCodes, FeastCodes, codes_settings, open_source
from tests.serving.made_run import CONFIG, MadeRun, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    root = tmp_path_factory.mktemp("run")
    made = make_run(root, root / "store", publish=False)
    build(made, made.root / "scorer")
    return made


def build(made: MadeRun, out: Path, **other: Path) -> None:
    names = ("model", "codebook", "vocabulary", "evaluation")
    parts = {name: open_bundle(other.get(name, made.root / name)) for name in names}
    write_scorer(**parts, data=parse_config(CONFIG).data, out=out)


def in_bundle(made: MadeRun) -> BundleCodes:
    return BundleCodes(codes=str(made.codes), vocabulary=str(made.vocabulary))


def test_scores_equal_those_of_the_model(run: MadeRun) -> None:
    scorer = Scorer.open(run.scorer, in_bundle(run))
    np.testing.assert_allclose(scorer.score(run.test), run.expected, atol=1e-6)
    assert run.expected.std() > 0.05


def test_rows_that_the_steps_encoded_score_alike(tmp_path: Path) -> None:
    made = make_run(tmp_path, tmp_path / "store", publish=False, encoded_by="steps")
    build(made, tmp_path / "scorer")
    np.testing.assert_allclose(Scorer.open(made.scorer, in_bundle(made)).score(made.test), made.expected, atol=1e-6)


def test_scores_do_not_depend_on_the_batch(run: MadeRun) -> None:
    scorer = Scorer.open(run.scorer, in_bundle(run))
    some = run.test.sample(30, random_state=0)
    np.testing.assert_allclose(scorer.score(some), run.expected[some.index], atol=1e-6)
    for row in range(5):
        np.testing.assert_allclose(scorer.score(run.test[row : row + 1]), run.expected[row], atol=1e-6)
    assert scorer.score(run.test[:0]).shape == (0,)


@pytest.mark.parametrize("codewords", ["warm", "random"])
def test_a_model_with_codewords_of_its_own(tmp_path: Path, codewords: str) -> None:
    made = make_run(tmp_path, tmp_path / "store", num_rows=300, publish=False, codewords=codewords)  # type: ignore[arg-type]
    build(made, tmp_path / "scorer")
    np.testing.assert_allclose(Scorer.open(made.scorer, in_bundle(made)).score(made.test), made.expected, atol=1e-6)


@pytest.mark.parametrize("floats", ["float16", "float32"])
@pytest.mark.parametrize("kind", ["feast", "bundle"])
def test_head_coded_tail_and_unknown_values_through_both_sources(tmp_path: Path, floats: Floats, kind: str) -> None:
    made = make_run(tmp_path, tmp_path / "store", num_rows=500, publish=kind == "feast", head=5, tail=30, floats=floats)
    build(made, tmp_path / "scorer")
    publication = json.loads((made.publication / "publication.json").read_text())
    feast = {"repo": str(publication["repo"]), "feature_service": str(publication["feature_service"])}
    source = FeastCodes(**feast) if kind == "feast" else in_bundle(made)
    scorer = Scorer.open(made.scorer, source)
    np.testing.assert_allclose(scorer.score(made.test), made.expected, atol=1e-6)
    sizes = dict(scorer.layout.vocabularies)
    known = [str(v) for v in Vocabularies.open(made.vocabulary).values("user").to_pylist()]
    place = [0 if v not in known else known.index(v) for v in made.test["user"].fillna("None").astype(str)]
    groups = [sum(low <= p < high for p in place) for low, high in ((1, 6), (6, sizes["user"] - 30))]
    assert min(*groups, sum(p >= sizes["user"] - 30 for p in place), place.count(0)) > 0


@pytest.mark.parametrize("value", [HeadRow(b"abc"), HeadRow(bytes(2 * 5)), HeadRow(b"")])
def test_an_exact_row_of_another_size_is_refused(run: MadeRun, value: HeadRow) -> None:
    with pytest.raises(SpaceError, match=f"exact row of {len(value.data)} bytes where rows have 20"):
        Scorer(open_bundle(run.scorer), Wrong(value)).score(run.test[:2])


def test_the_scorer_needs_nothing_outside_its_directory(run: MadeRun, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(run.scorer, moved)
    files = {str(f.relative_to(moved)) for f in moved.rglob("*") if f.is_file()}
    assert not any("codes" in name for name in files)  # those of coded vocabularies come from the store
    np.testing.assert_allclose(Scorer.open(moved, in_bundle(run)).score(run.test), run.expected, atol=1e-6)


def test_the_same_contents_made_later_make_the_same_scorer(run: MadeRun, tmp_path: Path) -> None:
    parts = {}
    for name in ("model", "codebook"):
        parts[name] = tmp_path / name
        shutil.copytree(run.root / name, parts[name])
        manifest = json.loads((parts[name] / "manifest.json").read_text())
        (parts[name] / "manifest.json").write_text(json.dumps(manifest | {"created": "2030-01-01T00:00:00+00:00"}))
    build(run, tmp_path / "again", **parts)
    assert open_bundle(tmp_path / "again").uuid == open_bundle(run.scorer).uuid


class Unknowing:
    """A source that knows no key."""

    def fetch(self, keys: Sequence[str]) -> list[bytes | HeadRow | None]:
        return [None] * len(keys)


def test_unknown_values_are_out_of_vocabulary(run: MadeRun) -> None:
    scorer = Scorer.open(run.scorer, in_bundle(run))
    strange = run.test[:40].assign(user="nobody", item=10**15, city="nowhere", price=1e18)
    strange["history"] = [[10**15, 10**15 + 1]] * 40
    other = strange.assign(user="no one", item=-(10**15), city="", price=1e17)
    np.testing.assert_array_equal(scorer.score(strange), scorer.score(other))
    assert not np.allclose(scorer.score(strange), run.expected[:40], atol=1e-3)
    without_codes = Scorer(open_bundle(run.scorer), Unknowing())
    np.testing.assert_allclose(without_codes.score(strange), scorer.score(strange), atol=1e-6)


def test_null_is_a_value_of_its_own(run: MadeRun) -> None:
    scorer = Scorer.open(run.scorer, in_bundle(run))
    rows = run.test[:40]
    assert not np.allclose(scorer.score(rows.assign(user=None)), scorer.score(rows.assign(user="nobody")), atol=1e-3)
    assert not np.allclose(scorer.score(rows.assign(price=None)), scorer.score(rows.assign(price=1e18)), atol=1e-3)
    assert not np.allclose(scorer.score(rows.assign(age=None)), scorer.score(rows.assign(age=0.0)), atol=1e-3)


def test_columns_in_the_types_that_requests_come_in(run: MadeRun) -> None:
    scorer = Scorer.open(run.scorer, in_bundle(run))
    as_text = run.test.assign(item=run.test["item"].astype(str), age=run.test["age"].astype(object), extra=1)
    as_text["tags"] = [None if t is None else ";".join(t) for t in run.test["tags"]]
    as_text["user"] = pd.Series(run.test["user"], dtype="string")
    np.testing.assert_allclose(scorer.score(as_text[as_text.columns[::-1]]), run.expected, atol=1e-6)
    floats = run.test.assign(item=run.test["item"].astype(float))
    np.testing.assert_allclose(scorer.score(floats), run.expected, atol=1e-6)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("item", 1.5, "row 0 of the request: the value is no whole number; found: 1.5"),
        ("item", "shoe", "field 'item' of the request is not integers"),
        ("price", float("inf"), "the value is infinite"),
        ("price", "cheap", "the value is not a number; found: 'cheap'"),
        ("history", 7, "field 'history' of the request is not lists of integers"),
    ],
)
def test_values_that_a_field_cannot_hold(run: MadeRun, column: str, value: object, words: str) -> None:
    scorer = Scorer.open(run.scorer, in_bundle(run))
    with pytest.raises(DataError, match=words):
        scorer.score(run.test[:3].assign(**{column: [value] * 3}))


def test_mixed_types_in_a_column(run: MadeRun) -> None:
    with pytest.raises(DataError, match="column 'item' of the request mixes types"):
        Scorer.open(run.scorer, in_bundle(run)).score(run.test[:2].assign(item=[1, "x"]))


def test_missing_columns_are_named(run: MadeRun) -> None:
    with pytest.raises(DataError, match="misses columns: user, tags"):
        Scorer.open(run.scorer, in_bundle(run)).score(run.test.drop(columns=["tags", "user"]))


class Wrong:
    """A source whose codes do not fit."""

    def __init__(self, value: bytes | HeadRow) -> None:
        self.value = value

    def fetch(self, keys: Sequence[str]) -> list[bytes | HeadRow | None]:
        return [self.value] * len(keys)


def test_codes_of_another_shape_are_refused(run: MadeRun) -> None:
    with pytest.raises(SpaceError, match="codes of vocabulary 'user' are not those of codebook"):
        Scorer(open_bundle(run.scorer), Wrong(b"abc")).score(run.test[:2])


def test_codes_of_another_codebook_are_refused(run: MadeRun, tmp_path: Path) -> None:
    other = make_run(tmp_path, tmp_path / "store", seed=1, num_rows=300, publish=False)
    with pytest.raises(SpaceError, match="does not hold codes of codebook"):
        Scorer.open(run.scorer, in_bundle(other))
    with pytest.raises(SpaceError, match="was not made with the vocabulary"):
        open_source(BundleCodes(codes=str(run.codes), vocabulary=str(other.vocabulary)), open_bundle(run.codebook).uuid)


def test_parts_that_do_not_belong_together(run: MadeRun, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", tmp_path / "store", seed=1, num_rows=300, publish=False)
    with pytest.raises(BundleError, match="is not of the model"):
        build(run, tmp_path / "scorer", evaluation=other.evaluation)
    with pytest.raises(SpaceError, match="was not made with the codebook"):
        build(run, tmp_path / "scorer", codebook=other.codebook)
    assert not (tmp_path / "scorer").exists()


def test_a_corrupt_file_is_named(run: MadeRun, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(run.scorer, broken)
    file = broken / "model" / "weights.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(BundleError, match=r"weights\.safetensors does not match its checksum"):
        Scorer.open(broken, in_bundle(run))


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"kind": "redis"},
        {"kind": "feast", "repo": "x"},
        {"kind": "bundle", "codes": "x", "vocabulary": "y", "z": 1},
    ],
)
def test_bad_settings_of_the_source(value: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"use \{kind: feast"):
        codes_settings(value)

"""The champion scored again on a challenger's rows, which are encoded with another vocabulary."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mec.bundle import open_bundle
from mec.config import TrackingConfig, parse_config
from mec.data.dataset import EncodedDataset
from mec.evaluation.metrics import auc, logloss
from mec.serving.building import write_scorer
from mec.serving.scorer import Scorer
from mec.serving.sources import BundleCodes
from mec.tracking.champion import TestRows, compare, recorded_metrics, score_test_rows, version_tags
from mec.tracking.gate import Metrics
from mec.tracking.registering import register_step
from mec.tracking.registry import ModelRegistry, Version
from mec.tracking.runs import open_run
from tests.serving.made_run import CONFIG, MadeRun, config_json, make_run

SMALL = {"num_rows": 600, "known_rows": 200}


def scorer_of(made: MadeRun) -> Scorer:
    parts = {name: made.bundle(name) for name in ("model", "codebook", "vocabulary", "evaluation")}
    bundle = write_scorer(**parts, data=parse_config(CONFIG).data, out=made.root / "scorer")
    return Scorer.open(bundle.path, BundleCodes(codes=str(made.codes), vocabulary=str(made.vocabulary)))


def rows_of(made: MadeRun) -> TestRows:
    return TestRows(made.bundle("dataset"), made.bundle("vocabulary"))


def labels_of(made: MadeRun) -> np.ndarray[Any, Any]:
    return np.concatenate([b.label for b in EncodedDataset.open(made.dataset).batches("test", 4096)]).astype(np.uint8)


def test_its_own_rows_give_its_own_metrics(tmp_path: Path) -> None:
    made = make_run(tmp_path / "run", tmp_path / "store", publish=False, **SMALL)
    measured = json.loads((made.evaluation / "evaluation.json").read_text())
    again = score_test_rows(scorer_of(made), rows_of(made))
    assert again.num_rows == measured["num_test_rows"]
    assert again.auc == pytest.approx(measured["auc"], abs=1e-6)
    assert again.logloss == pytest.approx(measured["logloss"], abs=1e-6)


def test_rows_of_another_vocabulary_are_scored_by_their_values(tmp_path: Path) -> None:
    old = make_run(tmp_path / "old", tmp_path / "store", seed=0, rows_seed=0, publish=False, **SMALL)
    # every value of the new rows is in the new vocabulary, so none is lost in decoding
    store = tmp_path / "store"
    new = make_run(tmp_path / "new", store, seed=1, rows_seed=1, publish=False, num_rows=600, known_rows=600)
    scorer = scorer_of(old)
    direct = scorer.score(new.test)
    expected = np.log(direct / (1 - direct))
    found = score_test_rows(scorer, rows_of(new))
    assert found.auc == pytest.approx(auc(labels_of(new), expected), abs=1e-6)
    assert found.logloss == pytest.approx(logloss(labels_of(new), expected), abs=1e-6)
    assert found.data_version == "rows-1-600"


def test_values_outside_the_new_vocabulary_are_unknown(tmp_path: Path) -> None:
    made = make_run(tmp_path / "new", tmp_path / "store", publish=False, num_rows=600, known_rows=60)
    other = make_run(tmp_path / "old", tmp_path / "store", publish=False, num_rows=600, known_rows=600)
    found = score_test_rows(scorer_of(other), rows_of(made))
    assert math.isfinite(found.auc)
    assert found.auc != score_test_rows(scorer_of(other), rows_of(other)).auc


def test_a_sample_is_spread_over_the_split(tmp_path: Path) -> None:
    made = make_run(tmp_path / "run", tmp_path / "store", publish=False, **SMALL)
    num_rows = len(made.test)
    found = score_test_rows(scorer_of(made), rows_of(made), max_rows=100)
    kept = np.diff(np.arange(num_rows + 1) * 100 // num_rows) > 0
    assert found.num_rows == 100
    logits = np.log(made.expected / (1 - made.expected))
    assert found.auc == pytest.approx(auc(labels_of(made)[kept], logits[kept]), abs=1e-6)


def test_a_large_split_is_sampled_for_both(store: Path, tmp_path: Path) -> None:
    old = make_run(tmp_path / "old", store, publish=False, **SMALL)
    register(old, store, tmp_path / "out-0")
    new = make_run(tmp_path / "new", store, seed=1, rows_seed=1, publish=False, **SMALL)
    scorer = scorer_of(new)
    whole = Metrics(0.99, 0.1, len(new.test), "rows-1-600", rows_of(new).split_hash())
    codes = BundleCodes(codes=str(new.codes), vocabulary=str(new.vocabulary))
    with open_run(TrackingConfig(), store=store, run_name="shop", run_id="compare") as run:
        registry = ModelRegistry(run, "shop")
        champion = registry.champion()
        assert champion is not None
        found = compare(whole, champion, registry, scorer=scorer.bundle, codes=codes, rows=rows_of(new), max_rows=100)
    assert found.challenger == score_test_rows(scorer, rows_of(new), max_rows=100)
    assert found.champion == score_test_rows(scorer_of(old), rows_of(new), max_rows=100)
    assert found.champion.same_rows(found.challenger)


def test_metrics_survive_the_tags() -> None:
    metrics = Metrics(0.1 + 0.2, 0.123456789012345678, 10**9, "v", "s")
    assert recorded_metrics(Version("1", version_tags(metrics))) == metrics
    assert recorded_metrics(Version("1", {"auc": "0.5"})).num_rows == 0


def register(made: MadeRun, store: Path, out: Path) -> dict[str, Any]:
    tracking = TrackingConfig.model_validate({"gate": {"min_auc": 0.0}})
    register_step(
        tracking=tracking,
        name="shop",
        store=store,
        config_json=config_json(),
        run_id=out.name,
        out=out,
        **made.steps(),
    )
    result: dict[str, Any] = json.loads((out / "registration.json").read_text())
    return result


@pytest.mark.parametrize("publish", [False, True])
def test_the_step_scores_the_champion_on_new_rows(store: Path, tmp_path: Path, publish: bool) -> None:
    old = make_run(tmp_path / "old", store, publish=publish, **SMALL)
    new = make_run(tmp_path / "new", store, seed=1, rows_seed=1, publish=publish, **SMALL)
    register(old, store, tmp_path / "out-0")
    theirs = score_test_rows(scorer_of(old), rows_of(new))
    ours = json.loads((new.evaluation / "evaluation.json").read_text())["auc"]
    result = register(new, store, tmp_path / "out-1")
    assert result["decision"]["promote"] is (ours > theirs.auc)
    assert f"{theirs.auc:.6f}" in " ".join(result["decision"]["reasons"])
    how = f"champion version 1 was scored again on {theirs.num_rows} of this run's test rows"
    assert result["decision"]["reasons"][-1] == how


def _lose_codes(store: Path) -> None:
    (kept,) = (store / "bundles").glob("codes-*")
    shutil.rmtree(kept)


def _keep_all(store: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("harm", "drop", "words"),
    [
        (_lose_codes, None, "no codes bundle at"),
        (_keep_all, "city", "this run's rows have no field 'city', which the champion needs"),
    ],
)
def test_a_champion_that_cannot_be_scored_stays(
    store: Path, tmp_path: Path, harm: Callable[[Path], None], drop: str | None, words: str
) -> None:
    old = make_run(tmp_path / "old", store, publish=False, **SMALL)
    register(old, store, tmp_path / "out-0")
    harm(store)
    new = make_run(tmp_path / "new", store, seed=1, rows_seed=1, publish=False, **SMALL)
    if drop is not None:
        manifest = json.loads((new.dataset / "manifest.json").read_text())
        for field in manifest["extra"]["layout"]["fields"]:
            field["name"] = "town" if field["name"] == drop else field["name"]
        (new.dataset / "manifest.json").write_text(json.dumps(manifest))
    result = register(new, store, tmp_path / "out-1")
    assert result["decision"]["promote"] is False
    assert result["aliases"] == ["challenger"]
    reasons = " | ".join(result["decision"]["reasons"])
    assert "not comparable, the champion was measured on other rows" in reasons
    assert "data version 'rows-0-600' against 'rows-1-600'" in reasons
    assert words in reasons
    assert open_bundle(tmp_path / "out-1")

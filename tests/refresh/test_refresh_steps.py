"""The steps of a refresh one after another: growing codes against a slow reading of their files, numbers by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mec.bundle import open_bundle
from mec.config import RefreshConfig
from mec.ctr_model import CtrModel, predict_split
from mec.data.dataset import EncodedDataset
from mec.data.vocabulary import Vocabularies
from mec.embeddings.coded import CodedEmbedding
from mec.evaluation.calibration import fit_calibration
from mec.evaluation.metrics import Interval, auc, auc_difference, logloss
from mec.fold_training import count_rows
from mec.model_bundle import load_ctr_model
from mec.publish.difference import differences
from mec.publish.value_rows import CodesFiles
from mec.quantize.codebook import Codebooks
from mec.quantize.codes import Codes
from mec.quantize.packing import unpack
from mec.refresh.recode_step import recode_step
from mec.refresh.vocabulary import new_counts
from tests.refresh.refresh_run import Generation, refresh_run, train_run

SPANS = {"head": 7, "tail_count": 12}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Generation:
    return train_run(tmp_path_factory.mktemp("run"), **SPANS)


@pytest.fixture(scope="module")
def first(base: Generation, tmp_path_factory: pytest.TempPathFactory) -> Generation:
    return refresh_run(
        base, tmp_path_factory.mktemp("first"), RefreshConfig(replay_ratio=1, replay_min_rows=1, max_rewritten=1)
    )


@pytest.fixture(scope="module")
def second(first: Generation, tmp_path_factory: pytest.TempPathFactory) -> Generation:
    return refresh_run(first, tmp_path_factory.mktemp("second"))


@pytest.fixture(scope="module")
def renewed(first: Generation, tmp_path_factory: pytest.TempPathFactory) -> Generation:
    return refresh_run(first, tmp_path_factory.mktemp("renewed"), RefreshConfig(codebooks="renewed", replay="none"))


def slow_rows(generation: Generation, base: Generation, name: str) -> Tensor:
    """Rows of one vocabulary, read place by place from the files: head, planned codes, tail, then appended codes."""
    codes, book = open_bundle(generation.codes), Codebooks.open(generation.codebook)
    size = Vocabularies.open(generation.vocabulary).sizes[name]
    if name in book.exact:
        if "exact" in codes.extra:
            return load_file(codes.file("exact.safetensors"))[name].float()
        return book.exact[name].float()
    counts = Vocabularies.open(base.vocabulary).counts(name)
    tail_start = 1 + int((counts[1:] >= SPANS["tail_count"]).sum())
    head = load_file(codes.file("head.safetensors"))[name].float()
    packed = load_file(codes.file("codes.safetensors"))[name]
    own = [0, *range(SPANS["head"] + 1, tail_start), *range(len(counts), size)]
    stream = unpack(packed.numpy(), len(own), 1, 4)
    code_of = {value: stream[place] for place, value in enumerate(own)}
    rows = []
    for value in range(size):
        if 1 <= value <= SPANS["head"]:
            rows.append(head[value - 1])
        else:
            rows.append(book.coded[name].codewords[0][int(code_of.get(value, code_of[0])[0])])
    return torch.stack(rows)


def model_of(generation: Generation) -> CtrModel:
    return load_ctr_model(*(open_bundle(generation.bundles[role]) for role in ("model", "codebook", "codes")))


@pytest.mark.parametrize("which", ["base", "first", "second", "renewed"])
def test_every_generation_decodes_as_its_files_say(
    which: str, base: Generation, request: pytest.FixtureRequest
) -> None:
    generation: Generation = request.getfixturevalue(which)
    embedding = model_of(generation).embedding
    assert isinstance(embedding, CodedEmbedding)
    for name, size in Vocabularies.open(generation.vocabulary).sizes.items():
        assert embedding.size(name) == size
        rows = embedding.rows(name, torch.arange(size, dtype=torch.int32))
        torch.testing.assert_close(rows, slow_rows(generation, base, name), rtol=0, atol=0)
    tables = [generation.codes / "codes.safetensors", generation.codes / "head.safetensors"]
    exact = generation.codes / "exact.safetensors"
    tables += [generation.codebook / "codebook.safetensors"]
    tables += [exact if exact.exists() else generation.codebook / "exact.safetensors"]
    assert sum(embedding.serving_bytes().values()) == sum(map(tensor_bytes, tables))


def tensor_bytes(file: Path) -> int:
    return sum(tensor.nbytes for tensor in load_file(file).values())


def test_generations_and_lineage(base: Generation, first: Generation, second: Generation, renewed: Generation) -> None:
    def codes(generation: Generation) -> Any:
        return open_bundle(generation.codes)

    assert [codes(g).extra["generation"] for g in (base, first, second, renewed)] == [0, 1, 2, 2]
    assert [codes(g).extra["parent_generation"] for g in (base, first, second, renewed)] == [None, 0, 1, 1]
    assert codes(second).manifest.parents["parent"] == codes(first).uuid
    books = [open_bundle(g.codebook) for g in (base, first, second, renewed)]
    assert books[0].uuid == books[1].uuid == books[2].uuid != books[3].uuid
    assert len({book.extra["space"] for book in books}) == 1
    assert len({open_bundle(g.pretrained).extra["space"] for g in (base, first, second, renewed)}) == 1
    sizes = [Vocabularies.open(g.vocabulary).sizes for g in (base, first, second)]
    assert all(sizes[0][n] < sizes[1][n] < sizes[2][n] for n in ("user", "item", "colour"))


def test_values_without_rows_keep_code_and_vector(base: Generation, first: Generation) -> None:
    trained = load_file(open_bundle(first.pretrained).file("trained.safetensors"))
    before, after = (load_file(open_bundle(g.pretrained).file("tables.safetensors")) for g in (base, first))
    old, new = model_of(base).embedding, model_of(first).embedding
    for name, rows in before.items():
        num_old = len(rows)
        untouched = trained[name][:num_old] == 0
        assert torch.equal(after[name][:num_old][untouched], rows[untouched])
        ids = torch.nonzero(untouched)[:, 0].int()
        ids = ids[ids > 0]
        plan = (
            None if name not in ("user", "item") else Codes.open(base.codes, Codebooks.open(base.codebook)).plan(name)
        )
        kept = ids if plan is None or not plan.tail_start else ids[ids < plan.tail_start]
        assert torch.equal(old.rows(name, kept), new.rows(name, kept))  # type: ignore[union-attr, operator]
    assert any(bool((t == 0).any()) for t in trained.values())


def test_refreshed_codes_are_nearer_than_stale_ones_where_they_changed(base: Generation, first: Generation) -> None:
    tables = load_file(open_bundle(first.pretrained).file("tables.safetensors"))
    old, new = model_of(base).embedding, model_of(first).embedding
    plans = Codes.open(base.codes, Codebooks.open(base.codebook))
    for name in ("user", "item"):
        plan = plans.plan(name)
        ids = torch.arange(plan.head + 1, plan.tail_start, dtype=torch.int32)
        before, after = old.rows(name, ids), new.rows(name, ids)  # type: ignore[union-attr, operator]
        wanted = tables[name][ids.long()]
        changed = (before != after).any(1)
        errors = [(rows - wanted).square().sum(1)[changed] for rows in (before, after)]
        assert changed.any()
        assert (errors[1] < (1 - 0.2) * errors[0]).all()


@pytest.mark.parametrize("share", [0.04, 0.3])
def test_no_more_rows_differ_than_may_be_written(
    base: Generation, first: Generation, tmp_path: Path, share: float
) -> None:
    recode_step(
        refresh=RefreshConfig(hysteresis=0.0, max_rewritten=share), quantize=base.config.quantize,
        pretrained=first.pretrained, codebook=base.codebook, codes=base.codes, vocabulary=first.vocabulary, seed=0,
        out_codebook=tmp_path / "codebook", out_codes=tmp_path / "codes",
    )  # fmt: skip
    found = differences(open_bundle(base.codes), open_bundle(tmp_path / "codes"))
    known = sum(CodesFiles(open_bundle(base.codes)).sizes.values())
    rewritten = sum(len(difference.rewritten) for difference in found.values())
    assert 0.5 * share * known < rewritten <= share * known


def test_tables_without_any_codes_are_refreshed(tmp_path: Path) -> None:
    base = train_run(tmp_path / "run", 1000, min_values=100_000)
    assert not Codebooks.open(base.codebook).coded
    after = refresh_run(base, tmp_path / "refresh", RefreshConfig(replay="none"))
    assert open_bundle(after.codes).extra["generation"] == 1


def test_head_rows_and_exact_rows_are_the_new_vectors(first: Generation) -> None:
    tables = load_file(open_bundle(first.pretrained).file("tables.safetensors"))
    trained = load_file(open_bundle(first.pretrained).file("trained.safetensors"))
    embedding = model_of(first).embedding
    for name, ids in (("user", range(1, 8)), ("item", range(1, 8)), ("colour", range(6)), ("price", range(2))):
        for value in ids:
            if trained[name][value]:
                row = embedding.rows(name, torch.tensor([value], dtype=torch.int32))[0]  # type: ignore[operator, union-attr]
                assert torch.equal(row, tables[name][value].half().float())


def test_the_evaluation_by_hand(base: Generation, first: Generation) -> None:
    facts = json.loads((first.evaluation / "evaluation.json").read_text())
    rows = EncodedDataset.open(first.dataset)
    refreshed, stale = model_of(first), model_of(base)
    sizes = [stale.embedding.size(f.vocabulary) for f in rows.layout.fields]  # type: ignore[union-attr, operator]

    def stale_logits(split: str) -> np.ndarray[Any, Any]:
        parts = []
        for batch in rows.batches(split, 100_000):
            ids = np.where(batch.ids < np.array(sizes), batch.ids, 0).astype(np.int32)
            parts.append(stale.logits(torch.from_numpy(ids), torch.from_numpy(batch.weights)).detach().numpy())
        return np.concatenate(parts)

    new_logits, labels = predict_split(refreshed, rows, "test", 500)
    valid_logits, valid_labels = predict_split(refreshed, rows, "valid", 500)
    old_logits = stale_logits("test")
    assert facts["auc_refreshed"]["value"] == facts["auc"] == pytest.approx(auc(labels, new_logits), abs=1e-9)
    assert facts["auc_stale"]["value"] == pytest.approx(auc(labels, old_logits), abs=1e-6)
    difference = auc(labels, new_logits) - auc(labels, old_logits)
    assert facts["auc_difference"]["value"] == pytest.approx(difference, abs=1e-6)
    assert facts["auc_difference"]["low"] <= difference <= facts["auc_difference"]["high"]
    served = json.loads((base.evaluation / "evaluation.json").read_text())["calibration"]
    current = served["scale"] * old_logits.astype(np.float64) + served["bias"]
    assert facts["logloss_stale"] == facts["loglosses"]["stale"]["current"]
    assert facts["logloss_stale"] == pytest.approx(logloss(labels, current), abs=1e-5)
    refit = fit_calibration(valid_labels, valid_logits).apply(new_logits)
    assert facts["loglosses"]["refreshed"]["refitted"] == pytest.approx(logloss(labels, refit), abs=1e-5)
    old_refit = fit_calibration(valid_labels, stale_logits("valid")).apply(old_logits)
    assert facts["loglosses"]["stale"]["refitted"] == pytest.approx(logloss(labels, old_refit), abs=1e-5)
    assert facts["recalibration"]["is_refitted"] in (True, False)
    unseen = [line for line in facts["slices"] if line["name"] == "unseen"]
    is_new = np.zeros(len(labels), dtype=bool)
    for batch in rows.batches("test", 100_000):
        coded = [i for i, f in enumerate(rows.layout.fields) if f.vocabulary in ("user", "item")]
        is_new = (batch.ids >= np.array(sizes))[:, coded].any(1) | (batch.ids == 0)[:, coded].any(1)
    assert unseen[0]["rows"] == int(is_new.sum()) > 0
    assert "stale_auc" in unseen[0]
    assert "<html" in (first.evaluation / "report.html").read_text()


@pytest.mark.parametrize("num_rows", [50, 997, 20_011])
def test_predictions_in_the_same_order_are_an_exact_tie(num_rows: int) -> None:
    generator = np.random.default_rng(num_rows)
    labels = generator.integers(0, 2, num_rows).astype(np.uint8)
    stale = generator.normal(size=num_rows).round(1)
    assert auc_difference(labels, 3.7 * stale - 1.0, stale)[0] == Interval(0.0, 0.0, 0.0)  # what `decide` calls a tie


def test_drift_and_rows_by_hand(base: Generation, first: Generation) -> None:
    facts = json.loads((first.evaluation / "evaluation.json").read_text())
    vocabularies = Vocabularies.open(first.vocabulary)
    rewritten = added = 0
    for name in ("user", "item"):
        before, after = slow_rows(base, base, name), slow_rows(first, base, name)
        rewritten += int((before != after[: len(before)]).any(1).sum())
        added += len(after) - len(before)
        drift = facts["drift"][name]
        assert drift["new_values"] == len(after) - len(before)
        counts = new_counts(vocabularies, name)
        assert drift["new_impressions"] == pytest.approx(counts[len(before) :].sum() / counts.sum())
        moved = sum(s["values_moved"] * s["num_values"] for s in drift["by_popularity"].values())
        assert moved == pytest.approx(int((before != after[: len(before)]).any(1).sum()))
    assert (facts["rows_rewritten"], facts["rows_added"]) == (rewritten, added)
    assert rewritten > 0


def test_training_rows_are_new_rows_and_a_replayed_sample(base: Generation, first: Generation) -> None:
    rows = open_bundle(first.pretrained).extra["rows"]
    new, old = EncodedDataset.open(first.dataset), EncodedDataset.open(base.dataset)
    assert rows == {"new": new.num_rows("train"), "replayed": new.num_rows("train")}
    assert rows["replayed"] < old.num_rows("train")
    trained = load_file(open_bundle(first.pretrained).file("trained.safetensors"))
    own, available = count_rows(new), count_rows(old)
    for name, counts in own.items():
        replayed = trained[name].numpy() - counts
        assert (replayed >= 0).all()
        assert (replayed[: len(available[name])] <= available[name]).all()
        assert replayed[len(available[name]) :].sum() == 0
    assert sum(trained["colour"].tolist()) == 2 * rows["new"]


def test_the_same_refresh_twice_is_the_same_bundles(base: Generation, first: Generation, tmp_path: Path) -> None:
    again = refresh_run(
        base,
        tmp_path,
        RefreshConfig(replay_ratio=1, replay_min_rows=1, max_rewritten=1),
        rows=first.dataset.parent / "rows.parquet",
    )
    for role in ("vocabulary", "pretrained", "codes", "codebook"):
        assert open_bundle(again.bundles[role]).uuid == open_bundle(first.bundles[role]).uuid
    facts = [json.loads((g.evaluation / "evaluation.json").read_text()) for g in (first, again)]
    assert facts[0] == facts[1]


def test_the_decision_reads_the_evaluation(first: Generation) -> None:
    decision = json.loads((first.decision / "decision.json").read_text())
    facts = json.loads((first.evaluation / "evaluation.json").read_text())
    assert decision["action"] in ("promote", "keep", "escalate")
    assert decision["numbers"]["auc_refreshed"] == facts["auc"]
    trained = json.loads((first.evaluation / "evaluation.json").read_text())["auc_at_training"]
    assert decision["numbers"]["auc_at_training_low"] == trained["low"]

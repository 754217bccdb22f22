"""The alternating search: who learns from what, resuming, and what it finds in planted data."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from mec.bundle import open_bundle, write_bundle
from mec.checkpoints import Checkpoints
from mec.config import OptimizerConfig
from mec.ctr_model import CtrModel
from mec.data.dataset import EncodedDataset
from mec.data.layout import FieldLayout, FieldSlots
from mec.data.shards import DatasetWriter
from mec.embeddings import search as search_module
from mec.embeddings import searched as searched_module
from mec.embeddings.choosing import best_each, best_within, dim_candidates
from mec.embeddings.method import Method, MethodInputs
from mec.embeddings.methods import build_method
from mec.embeddings.search import alternate
from mec.embeddings.searched import SuperEmbedding
from mec.errors import ConfigError, DataError
from mec.models import build_backbone

D, V = 7, 64
NAMES = ("rich", "partner", "noise")
LAYOUT = FieldLayout(
    tuple(FieldSlots(name, "categorical", name, i, 1, "none") for i, name in enumerate(NAMES)),
    tuple((name, V) for name in NAMES),
)
OPTIMIZER = OptimizerConfig(batch_size=256, learning_rate=0.05)
LARGE = {"min_values": 16}


def rows_of(num_rows: int, seed: int, silent: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Labels follow inner products of 3-dimensional factors of two fields; the ``silent`` one says nothing."""
    rng = np.random.default_rng(seed)
    ids = 1 + rng.integers(0, V - 1, (num_rows, 3))
    factors = np.random.default_rng(99).normal(0, 1, (2, V, 3))
    first, second = (ids[:, i] for i in range(3) if i != silent)
    odds = 2 * (factors[0][first] * factors[1][second]).sum(axis=1)
    return ids.astype(np.uint32), (rng.random(num_rows) < 1 / (1 + np.exp(-odds))).astype(np.uint8)


def dataset_in(directory: Path, num_train: int, num_valid: int, silent: int = 2) -> EncodedDataset:
    with write_bundle(directory, "dataset") as draft:
        with DatasetWriter(draft.path, LAYOUT) as writer:
            for split, num_rows, seed in (("train", num_train, 0), ("valid", num_valid, 1), ("test", 10, 2)):
                if num_rows:
                    writer.append(split, *rows_of(num_rows, seed, silent))
        draft.extra = writer.extra()
    return EncodedDataset(open_bundle(directory, "dataset"))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> EncodedDataset:
    return dataset_in(tmp_path_factory.mktemp("search") / "dataset", 1500, 700)


def own_inputs() -> MethodInputs:
    counts = np.full(V, 60, np.int64)
    counts[0] = 0
    pretrained = {name: 0.1 * torch.randn(V, D + 1, generator=torch.Generator().manual_seed(5)) for name in NAMES}
    return MethodInputs(LAYOUT, D, dict.fromkeys(NAMES, counts), pretrained)


def model_of(method: Method) -> CtrModel:
    torch.manual_seed(0)
    return CtrModel(LAYOUT, method, build_backbone("fm", 3, D, {}))


def mixed_model(name: str = "autodim") -> tuple[CtrModel, list[torch.nn.Parameter]]:
    # 61: every value is coded, none has an exact row
    method = build_method(name, own_inputs(), LARGE | ({"min_count": 61} if name == "autodpq" else {}))
    nets = {v: method.make_supernet(v, method.inputs, method.settings) for v in NAMES}
    model = CtrModel(LAYOUT, SuperEmbedding(method.inputs, method.settings, [], nets), build_backbone("fm", 3, D, {}))
    return model, [p for net in nets.values() for p in net.architecture()]


def steps(model, architecture, data, *, epochs=1.0, checkpoints=None, learning_rate=0.05):
    return alternate(
        model, architecture, data, OPTIMIZER,
        epochs=epochs, learning_rate=learning_rate, seed=0, checkpoints=checkpoints,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["autodim", "autoemb"])
def test_weights_learn_from_training_rows_and_the_architecture_from_validation_rows(small, monkeypatch, name):
    moved: list[tuple[str, bool, bool]] = []
    model, architecture = mixed_model(name)
    ours = {id(p) for p in architecture}

    def state() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        weights = [p.detach().clone() for p in model.parameters() if id(p) not in ours]
        tables = [net.table.weight.clone() for net in model.embedding.supernets]
        return weights + tables, [p.detach().clone() for p in architecture]

    own_rows = {
        split: {tuple(row) for batch in small.batches(split, 256) for row in batch.ids.tolist()}
        for split in ("train", "valid")
    }

    def watched(what, function):
        def call(*arguments):
            batch = arguments[2 if what == "train" else 3]
            assert {tuple(row) for row in batch.ids.tolist()} <= own_rows[what]
            before = state()
            result = function(*arguments)
            changed = [
                any(not torch.equal(a, b) for a, b in zip(x, y, strict=True))
                for x, y in zip(before, state(), strict=True)
            ]
            moved.append((what, *changed))
            return result

        return call

    monkeypatch.setattr(search_module, "train_batch", watched("train", search_module.train_batch))
    monkeypatch.setattr(search_module, "_step", watched("valid", search_module._step))
    shares = list(steps(model, architecture, small))
    assert shares == [i / 6 for i in range(6)]
    assert moved == [("train", True, False), ("valid", False, True)] * 6


@pytest.mark.parametrize(
    ("name", "stop_after"),
    [("autodim", 2), ("autodim", 5), ("autodim", 9), ("autoemb", 5), ("autodpq", 5), ("xlightfm", 5)],
)
def test_a_search_that_was_killed_goes_on_to_the_same_bits(small, tmp_path, monkeypatch, name, stop_after):
    monkeypatch.setattr(search_module, "_SAVE_STEPS", 2)
    whole, shape = mixed_model(name)
    for _ in steps(whole, shape, small, epochs=2):
        pass
    kept = Checkpoints(tmp_path, "search", "key")
    killed, shape = mixed_model(name)
    for _ in itertools.islice(steps(killed, shape, small, epochs=2, checkpoints=kept), stop_after):
        pass
    again, shape = mixed_model(name)
    shares = list(steps(again, shape, small, epochs=2, checkpoints=kept))
    # the iterator stops before the pair it announced; every second pair is kept
    assert shares == [i / 12 for i in range((stop_after - 1) // 2 * 2, 12)]
    first = mixed_model(name)[0].state_dict()
    for key, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
        assert not torch.equal(value, first[key]) or (name == "xlightfm" and "codes_" in key), key  # its codes stay


def test_no_validation_rows_are_refused(tmp_path):
    model, shape = mixed_model()
    with pytest.raises(DataError, match="a search learns from validation rows"):
        next(steps(model, shape, dataset_in(tmp_path / "dataset", 500, 0)))


@pytest.mark.parametrize("silent", [2, pytest.param(0, marks=pytest.mark.slow)])
def test_the_field_that_says_nothing_gets_fewer_dimensions(tmp_path, silent):
    dataset = dataset_in(tmp_path / "dataset", 20_000, 5_000, silent)
    method = build_method("autodim", own_inputs(), {"dim": 6, "search_epochs": 5, "search_rate": 0.03, **LARGE})
    found = method.search(model_of(method), dataset, OPTIMIZER, None)
    dims = {name: dim for name, (dim,) in found.settings.found.items()}
    assert set(dims.values()) <= {1, 2, 4, 8}
    speaking = [dim for i, dim in enumerate(dims.values()) if i != silent]
    assert dims[NAMES[silent]] < min(speaking), dims
    assert sum(found.serving_bytes().values()) <= sum(method.serving_bytes().values())
    for name, table in zip(found.large, found.tables, strict=True):
        assert table.table.weight.shape == (V, dims[name])
    assert found.search(model_of(found), dataset, OPTIMIZER, None) is found


@pytest.mark.parametrize("name", ["autodim", "autoemb", "autodpq", "xlightfm"])
def test_what_is_found_is_among_the_candidates(small, name):
    more = {"min_count": 61} if name == "autodpq" else {}
    method = build_method(name, own_inputs(), {"search_rate": 0.05, "derive": "argmax", **LARGE, **more})
    found = method.search(model_of(method), small, OPTIMIZER, None).settings.found
    for vocabulary, flat in found.items():
        options = method.candidates(vocabulary, method.inputs, method.settings)
        width = len(options[0])
        assert len(flat) == width * method.num_items(vocabulary, method.inputs, method.settings)
        assert {flat[i : i + width] for i in range(0, len(flat), width)} <= set(options)


def test_a_search_trains_the_models_scales_of_fields_where_it_has_them(small):
    method = build_method("autodim", own_inputs(), {**LARGE, "search_epochs": 0.5})
    model = CtrModel(LAYOUT, method, build_backbone("fm", 3, D, {}), field_scales=True)
    method.search(model, small, OPTIMIZER, None)
    assert model.scales is not None
    assert not torch.equal(model.scales.vectors, torch.ones(3))


def test_scores_decide_and_a_budget_moves_bytes_to_where_they_count():
    method = build_method("autodim", own_inputs(), {"dim": 3, **LARGE})
    flat, high = np.log(np.full((1, 4), 0.25)), np.log(np.array([[0.01, 0.01, 0.18, 0.8]]))
    low = high[:, ::-1]
    assert method.derived({"rich": high, "partner": flat, "noise": low}) == {
        "rich": (4,),
        "partner": (1,),
        "noise": (1,),
    }
    assert method.derived({"rich": low, "partner": low, "noise": high})["noise"] == (4,)
    free = build_method("autodim", own_inputs(), {"dim": 3, "derive": "argmax", **LARGE})
    assert free.derived({"rich": high, "partner": flat, "noise": low})["rich"] == (8,)
    least = build_method("autodim", own_inputs(), {"dim": 1, "candidates": (4, 8), **LARGE})
    assert least.derived(dict.fromkeys(NAMES, np.zeros((1, 2)))) == dict.fromkeys(NAMES, (1,))


def test_nothing_is_trained_where_no_candidate_fits(small, monkeypatch):
    def fail(*arguments, **settings):
        raise AssertionError("searched for nothing")

    monkeypatch.setattr(searched_module, "alternate", fail)
    least = build_method("autodim", own_inputs(), {"dim": 1, "candidates": (4, 8), **LARGE})
    assert least.search(model_of(least), small, OPTIMIZER, None) is least
    free = build_method("autodim", own_inputs(), {"dim": 1, "candidates": (4, 8), "derive": "argmax", **LARGE})
    with pytest.raises(AssertionError, match="searched for nothing"):
        free.search(model_of(free), small, OPTIMIZER, None)
    forced = build_method("autodim", own_inputs(), {"dim": 1, "candidates": (1, 8), **LARGE})
    found = forced.search(model_of(forced), small, OPTIMIZER, None)
    assert found.settings.found == dict.fromkeys(NAMES, (1,))
    fits = build_method("autodim", own_inputs(), {"dim": 4, "candidates": (2, 4), **LARGE})
    with pytest.raises(AssertionError, match="searched for nothing"):
        fits.search(model_of(fits), small, OPTIMIZER, None)


def test_the_best_within_a_budget_by_brute_force():
    rng = np.random.default_rng(0)
    for _ in range(60):
        num_items = int(rng.integers(1, 5))
        scores = [rng.normal(size=rng.integers(1, 5)) for _ in range(num_items)]
        num_bytes = [rng.integers(1, 200, len(own)) for own in scores]
        budget = int(rng.integers(1, 600))
        found = best_within(scores, num_bytes, budget)
        fitting = [
            (sum(s[i] for s, i in zip(scores, choice, strict=True)), choice)
            for choice in itertools.product(*(range(len(s)) for s in scores))
            if sum(b[i] for b, i in zip(num_bytes, choice, strict=True)) <= budget
        ]
        assert found == (list(max(fitting)[1]) if fitting else None)
    assert best_within(scores, num_bytes, -1) is None
    assert best_each(scores) == [int(np.argmax(own)) for own in scores]


def test_large_budgets_are_held_although_bytes_are_rounded():
    # of 13.999 cells each, 293 fit into 4,096 but 300 do not; rounded up, 292
    scores, num_bytes = [np.array([0.0, 1.0])] * 300, [np.array([1, 13_999])] * 300
    found = best_within(scores, num_bytes, 4_096_000)
    assert sum(b[i] for b, i in zip(num_bytes, found, strict=True)) <= 4_096_000
    assert sum(found) >= 290


def test_candidates_are_checked():
    assert dim_candidates(None, 17, "m") == [1, 2, 4, 8, 16, 17]
    assert dim_candidates(None, 8, "m") == [1, 2, 4, 8]
    assert dim_candidates((5, 2, 5), 8, "m") == [2, 5]
    with pytest.raises(ConfigError, match=r"autodim chooses from 1 to 8 floats per value; found: candidates=\[9\]"):
        dim_candidates((9,), 8, "autodim")


def test_found_sizes_of_other_vocabularies_are_refused():
    with pytest.raises(ConfigError, match=r"sizes in autodim's setting found are of other vocabularies"):
        build_method("autodim", own_inputs(), {"found": {"rich": [2], "partner": [2]}, **LARGE})
    with pytest.raises(ConfigError, match=r"'noise': 1"):
        build_method("autodim", own_inputs(), {"found": {"rich": [2], "partner": [2], "noise": [2, 2]}, **LARGE})

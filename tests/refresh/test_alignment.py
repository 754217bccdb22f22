"""One rotation for all vocabularies: against scipy, against perturbation, and against the FM it must not change."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from scipy.stats import ortho_group
from torch import Tensor

from mec import alignment
from mec.alignment import align, align_rows, procrustes, shared_weights
from mec.errors import DataError, TrainingError

DIM = 5


def _vectors(num: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 1, (num, DIM)).astype(np.float32))


def _rotation(seed: int = 0, *, reflection: bool = False) -> Tensor:
    rotation = torch.from_numpy(ortho_group.rvs(DIM, random_state=seed))
    if (torch.linalg.det(rotation) < 0) != reflection:
        rotation[0] *= -1
    return rotation


def _loss(old: Tensor, new: Tensor, weights: Tensor, rotation: Tensor) -> float:
    return float((weights.double()[:, None] * (old.double() - new.double() @ rotation).square()).sum())


@pytest.mark.parametrize("reflection", [False, True])
def test_a_planted_rotation_is_found(reflection: bool) -> None:
    old, planted = _vectors(40), _rotation(1, reflection=reflection)
    new = (old.double() @ planted.T).float()
    found = procrustes(old, new, torch.ones(40))
    torch.testing.assert_close(found, planted, atol=1e-6, rtol=0)


def test_the_weighted_solution_is_scipys_on_weighted_rows() -> None:
    old, new = _vectors(60, 1), _vectors(60, 2)
    weights = torch.rand(60, generator=torch.Generator().manual_seed(0))
    root = weights.double().sqrt()[:, None].numpy()
    wanted, _ = orthogonal_procrustes(new.double().numpy() * root, old.double().numpy() * root)
    np.testing.assert_allclose(procrustes(old, new, weights).numpy(), wanted, atol=1e-9)


def test_no_other_rotation_is_better() -> None:
    old, new = _vectors(60, 1), _vectors(60, 2)
    weights = torch.rand(60, generator=torch.Generator().manual_seed(0))
    found = procrustes(old, new, weights)
    best = _loss(old, new, weights, found)
    generator = torch.Generator().manual_seed(3)
    for _ in range(20):
        skew = torch.randn(DIM, DIM, generator=generator, dtype=torch.float64) * 0.05
        nearby = found @ torch.linalg.matrix_exp(skew - skew.T)
        assert _loss(old, new, weights, nearby) > best


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    old, new, weights = _vectors(60, 1), _vectors(60, 2), torch.rand(60)
    whole = procrustes(old, new, weights)
    monkeypatch.setattr(alignment, "CHUNK_ROWS", 7)
    torch.testing.assert_close(procrustes(old, new, weights), whole, atol=1e-12, rtol=0)
    rows = _vectors(20)
    torch.testing.assert_close(align_rows(rows, torch.eye(DIM - 1).double()), rows)


def test_inner_products_and_first_order_weights_survive() -> None:
    rows = torch.cat([torch.arange(20.0)[:, None], _vectors(20)], dim=1)
    turned = align_rows(rows, _rotation(4, reflection=True))
    assert turned.dtype == torch.float32
    assert torch.equal(turned[:, 0], rows[:, 0])
    assert not torch.allclose(turned[:, 1:], rows[:, 1:], atol=0.1)
    torch.testing.assert_close(turned[:, 1:] @ turned[:, 1:].T, rows[:, 1:] @ rows[:, 1:].T, atol=1e-5, rtol=1e-5)


def _tables(seed: int) -> dict[str, Tensor]:
    sizes = {"user": 80, "item": 30}
    return {n: torch.cat([torch.zeros(v, 1), _vectors(v, seed + i)], 1) for i, (n, v) in enumerate(sizes.items())}


def _counts(tables: dict[str, Tensor]) -> dict[str, np.ndarray]:
    counts = {name: np.maximum(1000 // np.arange(1, len(t) + 1), 1) for name, t in tables.items()}
    for count in counts.values():
        count[0] = 0
    return counts


def test_all_vocabularies_share_one_rotation_fitted_on_old_values_only() -> None:
    old, planted = _tables(0), _rotation(2)
    counts = _counts(old)
    new = {name: align_rows(t, planted.T) for name, t in old.items()}
    new = {name: torch.cat([t, torch.full((9, DIM + 1), 1e6)]) for name, t in new.items()}  # appended values
    new["user"][7] = torch.nan  # not trained in the new period
    weights = {n: shared_weights(c, np.append(c, np.full(9, 50))) for n, c in counts.items()}
    weights["user"][7] = 0
    found = align(old, new, weights, counts)
    torch.testing.assert_close(found.rotation, planted, atol=1e-6, rtol=0)
    assert found.rank == DIM
    assert found.overall.num_values == 80 + 30 - 2 - 1
    assert found.overall.explained_after == pytest.approx(1.0, abs=1e-9)
    assert found.overall.explained_before < 0.5
    assert set(found.by_popularity) == {"head", "torso", "tail"}
    assert sum(f.num_values for f in found.by_popularity.values()) == found.overall.num_values


def test_residuals_are_those_of_a_slow_computation() -> None:
    old, new = _tables(0), _tables(10)
    counts = _counts(old)
    weights = {name: shared_weights(c, c, "sqrt") for name, c in counts.items()}
    found = align(old, new, weights, counts)
    a, b = (torch.cat([t["user"][1:, 1:], t["item"][1:, 1:]]).double() for t in (old, new))
    w = torch.from_numpy(np.concatenate([weights["user"][1:], weights["item"][1:]])).double()
    torch.testing.assert_close(found.rotation, procrustes(a.float(), b.float(), w), atol=1e-9, rtol=0)
    variance = float((w[:, None] * (a - (w @ a) / w.sum()).square()).sum())
    assert found.overall.explained_after == pytest.approx(1 - _loss(a, b, w, found.rotation) / variance)
    assert found.overall.explained_before == pytest.approx(1 - _loss(a, b, w, torch.eye(DIM).double()) / variance)
    # the head of both vocabularies, by hand: values above which lie less than half of the impressions
    rows = {n: (np.cumsum(c) - c < 0.5 * c.sum()) & (c > 0) for n, c in counts.items()}
    head = torch.from_numpy(np.concatenate([rows["user"][1:], rows["item"][1:]]))
    variance = float((w[head, None] * (a[head] - (w[head] @ a[head]) / w[head].sum()).square()).sum())
    wanted = 1 - _loss(a[head], b[head], w[head], found.rotation) / variance
    assert found.by_popularity["head"].num_values == int(head.sum())
    assert found.by_popularity["head"].explained_after == pytest.approx(wanted)


def test_tables_of_folds_come_into_one_space() -> None:
    first = _tables(0)
    counts = _counts(first)
    weights = {name: shared_weights(c, c) for name, c in counts.items()}
    folds = [{n: align_rows(t, _rotation(seed)) for n, t in first.items()} for seed in (5, 6)]
    aligned = []
    for fold in folds:
        rotation = align(first, fold, weights, counts).rotation
        aligned.append({name: align_rows(t, rotation) for name, t in fold.items()})
    for name, table in first.items():
        for fold in aligned:
            torch.testing.assert_close(fold[name], table, atol=1e-5, rtol=0)


def test_a_direction_that_nothing_uses_is_counted() -> None:
    old = _tables(0)
    for table in old.values():
        table[:, 3] = 0
    counts = _counts(old)
    found = align(old, old, {n: shared_weights(c, c) for n, c in counts.items()}, counts)
    assert found.rank == DIM - 1
    assert found.overall.explained_after == pytest.approx(1.0)
    assert torch.equal(torch.isfinite(found.rotation), torch.ones(DIM, DIM, dtype=torch.bool))


def test_shared_weights_take_the_lesser_count() -> None:
    weights = shared_weights(np.array([0, 9, 4, 16, 7]), np.array([3, 4, 100, 0, 49, 8]), "sqrt")
    np.testing.assert_allclose(weights, np.sqrt([0, 4, 4, 0, 7]), rtol=1e-6)
    assert shared_weights(np.array([5]), np.array([3]), "raw").tolist() == [3.0]


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda old, new, w: w.zero_(), DataError, "found: 0 present in both periods"),
        (lambda old, new, w: w[4:].zero_(), DataError, "it needs 5.*found: 4 present"),
        (lambda old, new, w: new[3].fill_(torch.nan), TrainingError, "new vectors are not finite.*found: 5"),
        (lambda old, new, w: old[3, 1].fill_(torch.inf), TrainingError, "old vectors are not finite.*found: 1"),
        (lambda old, new, w: w[3].fill_(torch.nan), TrainingError, "weights are not finite"),
        (lambda old, new, w: w[3].fill_(-1.0), TrainingError, "weights below 0.*found: -1.0"),
    ],
)
def test_what_cannot_be_aligned_is_refused(spoil, error, words) -> None:  # type: ignore[no-untyped-def]
    old, new, weights = _vectors(12, 1), _vectors(12, 2), torch.ones(12)
    spoil(old, new, weights)
    with pytest.raises(error, match=words):
        procrustes(old, new, weights)


@pytest.mark.parametrize("change", ["fewer values", "another vocabulary", "another dimension", "other weights"])
def test_tables_that_do_not_belong_together_are_refused(change: str) -> None:
    old, new = _tables(0), _tables(10)
    counts = _counts(old)
    weights = {name: shared_weights(c, c) for name, c in counts.items()}
    if change == "fewer values":
        new["item"] = new["item"][:-1]
    elif change == "another vocabulary":
        new["city"] = new.pop("item")
    elif change == "another dimension":
        new["item"] = new["item"][:, :-1]
    else:
        weights["item"] = weights["item"][:-1]
    with pytest.raises(DataError, match=r"same vocabularies|one weight per value"):
        align(old, new, weights, counts)

"""Weighted k-means: quality, weights, degenerate points, determinism."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from mec.quantize import kmeans as kmeans_module
from mec.quantize.kmeans import kmeans, nearest
from tests.quantize.tables import clustered, zipf_counts


def brute_force(points: Tensor, codewords: Tensor) -> NDArray[np.int64]:
    differences = points.double()[:, None] - codewords.double()[None]
    return differences.square().sum(2).argmin(1).numpy()


def distortion(points: Tensor, weights: Tensor, codewords: Tensor) -> float:
    errors = (points - codewords[nearest(points, codewords)]).square().sum(1)
    return float((errors.double() * weights.double()).sum())


@pytest.mark.parametrize("num_codewords", [1, 3, 64, 1024])
def test_nearest_is_brute_force(num_codewords: int, device: str) -> None:
    generator = torch.Generator().manual_seed(num_codewords)
    points = torch.randn(1001, 9, generator=generator)
    codewords = torch.randn(num_codewords, 9, generator=generator)
    found = nearest(points.to(device), codewords.to(device)).cpu()
    assert (found.numpy() == brute_force(points, codewords)).all()


def test_nearest_far_from_the_origin() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(500, 5, generator=generator) + 1000
    codewords = torch.randn(32, 5, generator=generator) + 1000
    assert (nearest(points, codewords).numpy() == brute_force(points, codewords)).mean() > 0.99


def test_first_of_equal_codewords() -> None:
    points = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    one = torch.zeros(1, 4)
    assert nearest(points, one.repeat(5, 1)).tolist() == [0] * 100


def test_tiles_do_not_change_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    points = torch.from_numpy(clustered(1000, 6))
    codewords = points[:50].contiguous()
    whole = nearest(points, codewords)
    monkeypatch.setattr(kmeans_module, "_TILE_SCORES", {"cpu": 1})
    assert torch.equal(nearest(points, codewords), whole)


@pytest.mark.parametrize("num_codewords", [10, 100])
def test_not_worse_than_scikit_learn_on_blobs(num_codewords: int) -> None:
    cluster = pytest.importorskip("sklearn.cluster")
    rows = clustered(5000, 8)
    weights = np.sqrt(zipf_counts(5000) + 1).astype(np.float32)
    points, point_weights = torch.from_numpy(rows), torch.from_numpy(weights)
    theirs, ours = [], []  # both end in local minima that depend on the seed
    for seed in range(6):
        reference = cluster.KMeans(num_codewords, n_init=1, max_iter=100, random_state=seed)
        theirs.append(reference.fit(rows, sample_weight=weights).inertia_)
        fitted = kmeans(points, point_weights, num_codewords, iterations=100, seed=seed)
        ours.append(distortion(points, point_weights, fitted.codewords))
    assert np.mean(ours) <= 1.02 * np.mean(theirs)


def test_distortion_falls_and_is_what_it_says() -> None:
    points, weights = torch.from_numpy(clustered(4000, 6)), torch.rand(4000, generator=torch.Generator().manual_seed(0))
    fitted = kmeans(points, weights, 30, iterations=12, tolerance=-1.0)
    assert len(fitted.distortions) == 12
    assert (np.diff(fitted.distortions) <= 1e-6 * fitted.distortions[0]).all()
    final = distortion(points, weights, fitted.codewords)
    assert final <= fitted.distortions[-1] * (1 + 1e-5)
    assert final == pytest.approx(fitted.distortions[-1], rel=0.02)


def test_stops_early_when_nothing_is_gained() -> None:
    points = torch.from_numpy(clustered(2000, 4, num_clusters=8))
    assert len(kmeans(points, torch.ones(2000), 8, iterations=500).distortions) < 50


def test_weights_move_codewords_to_weighted_points() -> None:
    points = torch.from_numpy(clustered(3000, 6, num_clusters=200))
    weights = torch.from_numpy(zipf_counts(3000)).float()
    weighted = kmeans(points, weights, 16).codewords
    plain = kmeans(points, torch.ones(3000), 16).codewords
    assert distortion(points, weights, weighted) < 0.9 * distortion(points, weights, plain)
    assert distortion(points, torch.ones(3000), plain) < distortion(points, torch.ones(3000), weighted)


def test_weight_two_is_the_point_twice() -> None:
    points = torch.from_numpy(clustered(400, 3, num_clusters=3)) + 20 * torch.arange(400)[:, None].remainder(3)
    weights = torch.ones(400)
    weights[:100] = 2
    once = kmeans(points, weights, 3, iterations=100)
    twice = kmeans(torch.cat([points, points[:100]]), torch.ones(500), 3, iterations=100)
    order_once, order_twice = once.codewords[:, 0].argsort(), twice.codewords[:, 0].argsort()
    assert torch.allclose(once.codewords[order_once], twice.codewords[order_twice], atol=1e-3)
    assert once.distortions[-1] == pytest.approx(twice.distortions[-1], rel=1e-3)


def test_points_of_weight_zero_are_ignored() -> None:
    points = torch.from_numpy(clustered(500, 3, num_clusters=4))
    outliers = torch.full((5, 3), 1e3)
    weights = torch.cat([torch.ones(500), torch.zeros(5)])
    codewords = kmeans(torch.cat([points, outliers]), weights, 4).codewords
    assert codewords.abs().max() < 10


def test_one_codeword_is_the_weighted_mean() -> None:
    points = torch.tensor([[0.0, 0.0], [4.0, 8.0]])
    fitted = kmeans(points, torch.tensor([3.0, 1.0]), 1)
    assert torch.allclose(fitted.codewords, torch.tensor([[1.0, 2.0]]))


def test_equal_points() -> None:
    points = torch.full((300, 4), 2.5)
    fitted = kmeans(points, torch.ones(300), 16)
    assert torch.allclose(fitted.codewords[nearest(points, fitted.codewords)], points)
    assert torch.isfinite(fitted.codewords).all()


@pytest.mark.parametrize("num_codewords", [7, 8, 300])
def test_fewer_distinct_points_than_codewords(num_codewords: int) -> None:
    distinct = torch.randn(7, 5, generator=torch.Generator().manual_seed(1))
    points = distinct.repeat(40, 1)
    fitted = kmeans(points, torch.ones(len(points)), num_codewords)
    assert torch.isfinite(fitted.codewords).all()
    assert distortion(points, torch.ones(len(points)), fitted.codewords) < 1e-8


def test_fewer_points_than_codewords() -> None:
    points = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    fitted = kmeans(points, torch.ones(3), 8)
    assert fitted.codewords.shape == (8, 2)
    assert distortion(points, torch.ones(3), fitted.codewords) < 1e-10


def test_empty_codewords_move_to_the_largest_weighted_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    points = torch.from_numpy(clustered(1000, 4, num_clusters=10))
    weights = torch.ones(1000)

    def far_off(points: Tensor, weights: Tensor, num_codewords: int, generator: torch.Generator) -> Tensor:
        return torch.cat([points[:1], torch.full((num_codewords - 1, points.shape[1]), 1e3)])  # nearest to no point

    monkeypatch.setattr(kmeans_module, "seed_codewords", far_off)
    fitted = kmeans(points, weights, 10, iterations=40)
    assert len(nearest(points, fitted.codewords).unique()) == 10
    assert fitted.distortions[-1] < 0.5 * fitted.distortions[0]


def test_same_arguments_same_codewords(device: str) -> None:
    points = torch.from_numpy(clustered(3000, 6)).to(device)
    weights = torch.ones(3000, device=device)
    first, again, other = (kmeans(points, weights, 32, seed=s).codewords for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_more_than_256_codewords_are_seeded_in_rounds() -> None:
    points = torch.from_numpy(clustered(5000, 6))
    fitted = kmeans(points, torch.ones(5000), 600, iterations=5)
    assert len(nearest(points, fitted.codewords).unique()) == 600


def test_real_size_takes_a_second_or_two() -> None:
    points = torch.from_numpy(clustered(30_000, 17, num_clusters=500))
    start = time.process_time()
    kmeans(points, torch.ones(30_000), 64)
    assert time.process_time() - start < 2

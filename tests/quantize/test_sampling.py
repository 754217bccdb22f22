"""Weighted draws and coresets."""

from __future__ import annotations

import numpy as np
import torch

from mec.quantize.kmeans import kmeans, nearest
from mec.quantize.sampling import draw, sample_points
from tests.quantize.tables import clustered


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_draws_follow_the_weights() -> None:
    weights = torch.tensor([0.0, 1.0, 3.0, 0.0, 4.0, 0.0])
    counts = torch.bincount(draw(weights, 80_000, generator()), minlength=6).numpy()
    assert np.abs(counts - [0, 10_000, 30_000, 0, 40_000, 0]).max() <= 1


def test_draw_without_any_weight() -> None:
    assert draw(torch.zeros(5), 2, generator()).tolist() == [4, 4]


def test_sample_is_everything_where_it_fits() -> None:
    points, weights = torch.randn(10, 2, generator=generator()), torch.rand(10, generator=generator())
    index, new_weights = sample_points(points, weights, 10, generator())
    assert index.tolist() == list(range(10))
    assert torch.equal(new_weights, weights)


def test_sample_is_distinct_bounded_and_unbiased() -> None:
    points = torch.randn(2000, 3, generator=generator())
    weights = torch.rand(2000, generator=generator()).square()
    weights[0] = 500.0
    weights[1] = 0.0
    totals, sums = [], []
    for seed in range(200):
        index, new_weights = sample_points(points, weights, 100, generator(seed))
        assert len(index) == len(index.unique()) <= 100
        assert 0 in index
        assert 1 not in index
        totals.append(float(new_weights.sum()))
        sums.append((new_weights @ points[index]).numpy())
    total, expected = float(weights.sum()), (weights @ points).numpy()
    assert abs(np.mean(totals) / total - 1) < 0.02
    error = np.std(sums, axis=0) / np.sqrt(200)
    assert (np.abs(np.mean(sums, axis=0) - expected) < 4 * error + 1e-2).all()


def test_all_points_equal() -> None:
    index, new_weights = sample_points(torch.ones(1000, 3), torch.ones(1000), 64, generator())
    assert len(index) == 64
    assert torch.isfinite(new_weights).all()


def test_coreset_beats_a_uniform_sample_where_few_points_vary_most() -> None:
    points = torch.from_numpy(clustered(8000, 6))
    points[:40] *= 20
    weights = torch.ones(8000)

    def fitted_on(index: torch.Tensor, sample_weights: torch.Tensor) -> float:
        codewords = kmeans(points[index], sample_weights, 32).codewords
        return float((points - codewords[nearest(points, codewords)]).square().sum())

    samples = [sample_points(points, weights, 600, generator(seed)) for seed in range(3)]
    uniform_samples = [(torch.randperm(8000, generator=generator(seed))[:600], torch.ones(600)) for seed in range(3)]
    coreset, uniform = (np.mean([fitted_on(*s) for s in drawn]) for drawn in (samples, uniform_samples))
    assert coreset < 0.7 * uniform

"""The paired bootstrap, against rows that are really drawn and against DeLong."""

from __future__ import annotations

import numpy as np
import pytest

from mec.errors import DataError
from mec.evaluation.bootstrap import paired_bootstrap
from mec.evaluation.metrics import auc, auc_difference, auc_interval


def made(num_rows: int, seed: int = 0):
    """Labels, and the scores of two models whose errors go together; the second has many ties."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(num_rows) < 0.3).astype(np.uint8)
    common = rng.normal(size=num_rows) + labels
    better = (common + 0.3 * rng.normal(size=num_rows)).astype(np.float32)
    return labels, [better, np.round(common + rng.normal(size=num_rows)).astype(np.float32)]


def test_each_resample_is_the_auc_of_rows_drawn_with_replacement():
    labels, scores = made(60)
    found = paired_bootstrap(labels, scores, seed=7, num_resamples=20)
    rng = np.random.default_rng(7)
    for line in found.resampled:
        rows = rng.integers(0, 60, 60)
        assert line == pytest.approx([auc(labels[rows], score[rows]) for score in scores], abs=1e-12)
    assert found.values == pytest.approx([auc(labels, score) for score in scores])


def test_intervals_are_those_of_delong_where_rows_are_many():
    labels, scores = made(4000)
    found = paired_bootstrap(labels, scores, seed=0, num_resamples=600)
    alone, paired = auc_interval(labels, scores[0]), auc_difference(labels, scores[0], scores[1])[0]
    for ours, theirs in ((found.interval(0), alone), (found.difference(0, 1), paired)):
        width = theirs.high - theirs.low
        assert ours.value == pytest.approx(theirs.value)
        assert ours.low == pytest.approx(theirs.low, abs=0.12 * width)
        assert ours.high == pytest.approx(theirs.high, abs=0.12 * width)
    unpaired = np.hypot(*(np.diff([found.interval(i).low, found.interval(i).high])[0] for i in (0, 1)))
    assert found.difference(0, 1).high - found.difference(0, 1).low < 0.9 * unpaired


def test_a_resample_without_one_label_is_drawn_again():
    labels = np.array([1, 0, 0], dtype=np.uint8)
    found = paired_bootstrap(labels, [np.array([3.0, 1.0, 2.0])], seed=0, num_resamples=50)
    assert np.all(found.resampled == 1.0)


def test_many_rows_take_fewer_resamples():
    labels, scores = made(200_000)
    assert paired_bootstrap(labels[:50], [scores[0][:50]], seed=0).num_resamples == 1000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mec.evaluation.bootstrap.MIN_RESAMPLES", 2)
        patch.setattr("mec.evaluation.bootstrap._ROW_DRAWS", 600_000)
        assert paired_bootstrap(labels, [scores[0]], seed=0).num_resamples == 3


def test_one_label_only_is_refused():
    with pytest.raises(DataError, match="too few rows of a label"):
        paired_bootstrap(np.ones(4, dtype=np.uint8), [np.arange(4.0)], seed=0)

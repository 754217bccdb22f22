"""Rows of different lengths and groups of values by count, against plain Python."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mec.embeddings.popularity import MAX_GROUPS, by_count, by_doubling, doubling_sizes
from mec.embeddings.ragged import ragged_arrays, ragged_bytes, ragged_rows
from mec.errors import ConfigError


@pytest.mark.parametrize("size", [1, 31, 32, 33, 64, 257])
@pytest.mark.parametrize("lengths", [[3], [1, 2, 5], [1, 2, 3, 4, 5, 6, 7, 8, 9]])
def test_ragged_rows_are_the_first_floats_of_each_row(size, lengths):
    rng = np.random.default_rng(size)
    classes, rows = rng.integers(0, len(lengths), size), torch.randn(size, 9)
    arrays = ragged_arrays(rows, classes, lengths)
    ids = torch.from_numpy(rng.integers(0, size, 100))
    found, own = ragged_rows({name: a.tensor for name, a in arrays.items()}, lengths, ids, 9)
    for place, i in enumerate(ids.tolist()):
        kept = lengths[classes[i]]
        assert own[place] == classes[i]
        assert torch.equal(found[place, :kept], rows[i, :kept])
        assert not bool(found[place, kept:].any())
    num_floats = int(np.array(lengths)[classes].sum())
    held = {"rows": 0, "index": 0}
    for array in arrays.values():
        held[array.part] += array.tensor.numel() * array.tensor.element_size()
    assert ragged_bytes(size, num_floats, len(lengths), 4) == held
    bits = {1: 1, 3: 2, 9: 4}[len(lengths)]
    assert held == {"rows": 4 * num_floats, "index": -(-size * bits // 8) + 4 * -(-size // 32)}


def test_too_many_floats_for_their_index_are_refused():
    with pytest.raises(ConfigError, match=r"2,147,483,647 floats per vocabulary at most; found: 2,147,483,648"):
        ragged_bytes(10, 1 << 31, 3, 2)


def test_groups_by_doubling_are_counts_of_as_many_bits():
    counts = np.array([0, 5, 1, 2, 3, 4, 7, 8, 0, 1 << 40, (1 << 40) - 1])
    bits = [int(n).bit_length() for n in counts]
    groups = by_doubling(counts)
    rank = {b: i for i, b in enumerate(sorted(set(bits)))}
    assert groups.of_value.tolist() == [rank[b] for b in bits]
    assert groups.sizes.tolist() == doubling_sizes(counts).tolist() == [2, 1, 2, 3, 1, 1, 1]
    assert groups.rows.tolist() == [0, 1, 5, 16, 8, (1 << 40) - 1, 1 << 40]


def test_groups_by_count_are_one_per_count_until_there_are_too_many():
    counts = np.array([4, 0, 4, 9, 1])
    groups = by_count(counts)
    assert groups.of_value.tolist() == [2, 0, 2, 3, 1]
    assert groups.sizes.tolist() == [1, 1, 2, 1]
    values = np.log1p(counts)
    standard = (values - values.mean()) / values.std()
    np.testing.assert_allclose(groups.features[groups.of_value.astype(int), 0].numpy(), standard, rtol=1e-5)
    np.testing.assert_allclose(groups.features[:, 1].numpy(), [-0.6, -0.2, 0.6, 1.0], rtol=1e-5)
    many = by_count(np.random.default_rng(0).permutation(5000))
    assert len(many.sizes) == MAX_GROUPS
    assert set(many.sizes.tolist()) == {4, 5}
    assert np.all(np.diff(many.features[:, 0].numpy()) > 0)

import math

import numpy as np
import pyarrow as pa
import pytest

from mec.data.numeric import LARGEST, linear_weights, log2_buckets


def test_follows_the_recipe_value_by_value() -> None:
    x = np.array([-3.0, -0.5, 0.0, 1.0, 1.9, 2.0, 2.5, 3.0, 5.0, 1382.0, 1e12])
    expected = [math.floor(math.log(v) ** 2) + 3 if v > 2 else math.floor(v) for v in x]
    found = log2_buckets(x)
    assert found.dtype == np.int64
    assert found.tolist() == expected
    assert found[9] == 55


def test_largest_numbers_fit() -> None:
    assert log2_buckets(np.array([LARGEST, -LARGEST])).tolist() == [1849, -(2**62)]


def test_beyond_the_largest_is_our_mistake() -> None:
    with pytest.raises(AssertionError):
        log2_buckets(np.array([np.inf]))


def test_small_and_large_numbers_never_share_a_bucket() -> None:
    small, large = log2_buckets(np.array([-1.0, 0.0, 1.0, 2.0])), log2_buckets(np.linspace(2.0001, 50, 1000))
    assert not set(small.tolist()) & set(large.tolist())
    assert log2_buckets(np.array([1.0]))[0] != log2_buckets(np.array([3.0]))[0]


def test_linear_weights_are_standardised_and_null_is_1() -> None:
    weights = linear_weights(pa.array([3.0, None, 7.0]), 5.0, 2.0)
    np.testing.assert_array_equal(weights, np.array([-1.0, 1.0, 1.0], np.float32))
    assert weights.dtype == np.float32

"""Deep hash embedding: hashes by Python's integers, known values, and the network by torch's own layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mec.embeddings.dhe import NUM_BUCKETS, PRIME, encode, hash_constants
from mec.embeddings.methods import build_method
from tests.embeddings.test_methods import W, assert_uniform, one_vocabulary, rows_of

SIZE = 400
SMALL = {"num_hashes": 32, "hidden": 8}
MASK = (1 << 64) - 1
KNOWN_A, KNOWN_B = [1751225706, 1760460027], [466552418, 459691335]
KNOWN_HASHES = [[552418, 691335], [294477, 667715], [205552, 58601]]  # of ids 0, 1 and 99
KNOWN_SALT = 2043827025553316532  # of vocabulary f under seed 0


def splitmix(key: int) -> int:
    """splitmix64 in Python's integers."""
    z = (key + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def hashes(ids: torch.Tensor, salt: int, num_hashes: int) -> torch.Tensor:
    """The integers behind a uniform encoding."""
    encoded = encode(ids, hash_constants(salt, num_hashes), "uniform").double()
    return ((encoded + 1) * (NUM_BUCKETS - 1) / 2).round().long()


def test_hashes_are_the_universal_ones_of_their_salt():
    ids, salt, num_hashes = [0, 1, 2, 12_345, PRIME - 1], (1 << 62) - 5, 6
    numbers = [splitmix(salt + i) & ((1 << 62) - 1) for i in range(2 * num_hashes)]
    pairs = [(1 + a % (PRIME - 1), b % PRIME) for a, b in zip(numbers[:num_hashes], numbers[num_hashes:], strict=True)]
    expected = [[(a * i + b) % PRIME % NUM_BUCKETS for a, b in pairs] for i in ids]
    assert hashes(torch.tensor(ids), salt, num_hashes).tolist() == expected


def test_hashes_are_the_same_in_every_process_and_on_every_machine():
    a, b = hash_constants(7, 2)
    assert (a.tolist(), b.tolist()) == (KNOWN_A, KNOWN_B)
    assert hashes(torch.tensor([0, 1, 99]), 7, 2).tolist() == KNOWN_HASHES
    assert build_method("dhe", one_vocabulary(SIZE), SMALL).tables[0].salt == KNOWN_SALT


def test_encodings_are_distributed_as_asked():
    ids, constants = torch.arange(5000), hash_constants(11, 16)
    uniform, normal = (encode(ids, constants, kind).double() for kind in ("uniform", "normal"))
    assert (float(uniform.min()) >= -1, float(uniform.max()) <= 1) == (True, True)
    for column in uniform.T.numpy():
        # multiples of a step are more even than draws: only too uneven is wrong
        assert np.abs(np.histogram(column, 20, (-1, 1))[0] - 250).max() < 100
    pooled = np.random.default_rng(0).choice(uniform.flatten().numpy(), 20_000, replace=False)
    assert_uniform(np.histogram(pooled, 50, (-1, 1))[0], slack=3)
    assert float(normal.mean()) == pytest.approx(0, abs=0.02)
    assert float(normal.std()) == pytest.approx(1, abs=0.02)
    assert float((normal**4).mean()) == pytest.approx(3, abs=0.3)
    assert float(torch.corrcoef(normal.T).fill_diagonal_(0).abs().max()) < 0.2


def reference(table) -> nn.Sequential:
    """The same network of torch's own layers, with the table's weights."""
    layers: list[nn.Module] = []
    for linear, norm in zip(table.layers, table.norms, strict=True):
        own = nn.BatchNorm1d(norm.num_features)
        own.load_state_dict(norm.state_dict())
        layers += [linear, own, nn.Mish()]
    return nn.Sequential(*layers, table.output)


def moved(settings: dict):
    """A method whose weights and statistics are away from their first values."""
    torch.manual_seed(0)
    method = build_method("dhe", one_vocabulary(SIZE), settings)
    for parameter in method.tables[0].parameters():
        nn.init.normal_(parameter, 0.1, 0.3)
    method.train()
    for _ in range(5):
        method(torch.randint(0, SIZE, (64, 1), dtype=torch.int32))
    return method


@pytest.mark.parametrize("settings", [SMALL, SMALL | {"num_layers": 1, "encoding": "normal"}])
def test_rows_are_the_networks_in_both_modes(settings):
    method = moved(settings)
    table = method.tables[0]
    ids = torch.tensor([3, 3, 0, 399, 17, 3, 0])
    dense = encode(ids, table.constants, settings.get("encoding", "uniform"))
    for training in (True, False):
        own = reference(table).train(training)
        torch.testing.assert_close(method.train(training)(ids[:, None].int())[:, 0], own(dense), rtol=1e-4, atol=1e-5)


def test_finishing_folds_the_normalization_away():
    method = moved(SMALL)
    before = rows_of(method, SIZE)
    method.finish()
    torch.testing.assert_close(rows_of(method, SIZE), before, rtol=0, atol=0.01 * float(before.abs().max()))
    names = {name.removeprefix("f/") for name in method.export().arrays}
    assert names == {f"{what}_{i}" for what in ("weight", "bias") for i in range(4)}


def test_bytes_are_the_networks_and_do_not_grow_with_the_vocabulary():
    floats = 33 * 8 + 2 * 9 * 8 + 9 * W
    for size in (300, 30_000):
        sizes = build_method("dhe", one_vocabulary(size), SMALL).serving_bytes()
        assert sizes == {"codes": 0, "codebooks": 0, "rows": 0, "index": 0, "other": 2 * floats}


def test_rows_start_small():
    rows = rows_of(build_method("dhe", one_vocabulary(5000), {"init_std": 0.2}).train(), 5000)
    assert 0.02 < float(rows[:, 1:].std()) < 0.3
    assert not bool(rows[:, 0].any())

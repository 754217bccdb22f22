"""Salted hash functions of ids, the same on every machine and device."""

from __future__ import annotations

from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def bucket(ids: Tensor, salt: int, num_buckets: int) -> Tensor:
    """Hash ids to buckets, uniformly: splitmix64's mixing of salt and id, its upper 31 bits scaled to the buckets.

    Mixing: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014. Scaling without a
    division: Lemire, "Fast random integer generation in an interval", 2019.

    Args:
        ids: (N,) int64, not negative.
        salt: In [0, 2^63); another salt is another function.
        num_buckets: From 1 to 2^31.

    Returns:
        (N,) int64 in [0, num_buckets).
    """
    mixed = mix(ids ^ salt)
    return (_shifted(mixed, 33) * num_buckets) >> 31


def mix(keys: Tensor) -> Tensor:
    """(N,) int64 -> (N,) int64: splitmix64 of keys taken as 64 bits without a sign; a bijection."""
    z = keys + _signed(_GOLDEN)
    z = (z ^ _shifted(z, 30)) * _signed(_FIRST)
    z = (z ^ _shifted(z, 27)) * _signed(_SECOND)
    return z ^ _shifted(z, 31)


def _shifted(bits: Tensor, by: int) -> Tensor:
    """Shift right and fill with zeros; torch's own shift repeats the sign."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _signed(constant: int) -> int:
    """The same 64 bits as int64 has them."""
    return constant - (1 << 64) if constant >> 63 else constant

"""Byte budgets: the forms they are written in, and what they come to."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mec.errors import ConfigError
from mec.quantize.budget import parse_budget


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("2%", 20_000),
        ("0.05 %", 500),
        ("100%", 1_000_000),
        ("64x", 15_625),
        ("3x", 333_333),
        ("1.5x", 666_666),
        ("1x", 1_000_000),
        ("12345B", 12_345),
        ("512KiB", 524_288),
        ("1.5MiB", 1_572_864),
        (" 2GiB ", 2_147_483_648),
        ("0.5KiB", 512),
    ],
)
def test_forms(text: str, num_bytes: int) -> None:
    assert parse_budget(text).bytes(1_000_000) == num_bytes


@given(hundredths=st.integers(1, 10_000), full_bytes=st.integers(10_000, 1 << 45))
def test_share_is_exact_and_rounded_down(hundredths: int, full_bytes: int) -> None:
    text = f"{hundredths // 100}.{hundredths % 100:02d}%"
    assert parse_budget(text).bytes(full_bytes) == hundredths * full_bytes // 10_000


@given(ratio=st.decimals(1, 100_000, places=2), full_bytes=st.integers(100_000, 1 << 45))
def test_ratio_is_exact_and_rounded_down(ratio: object, full_bytes: int) -> None:
    assert parse_budget(f"{ratio}x").bytes(full_bytes) == int(full_bytes / Fraction(str(ratio)))


def test_bytes_do_not_depend_on_the_tables() -> None:
    budget = parse_budget("64KiB")
    assert budget.bytes(1) == budget.bytes(1 << 40) == 65_536


@pytest.mark.parametrize("text", ["1000001x", "0.00009%"])
def test_less_than_a_byte_of_the_tables_is_refused(text: str) -> None:
    assert parse_budget(text).bytes(10_000_000) in (8, 9)
    with pytest.raises(ConfigError, match="less than a byte of the full tables' 1,000,000; found: '" + text):
        parse_budget(text).bytes(1_000_000)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no share, ratio or number"),
        ("12345", "no share, ratio or number"),
        ("2 percent", "no share, ratio or number"),
        ("-2%", "no share, ratio or number"),
        ("1.5MB", "no share, ratio or number"),
        ("1e6B", "no share, ratio or number"),
        ("nan%", "no share, ratio or number"),
        ("٢%", "no share, ratio or number"),
        ("0%", "leaves no bytes"),
        ("0x", "divides by 0"),
        ("0.0MiB", "less than a byte"),
        ("0.9B", "less than a byte"),
        ("100.1%", "more than the full tables"),
        ("0.99x", "more than the full tables"),
    ],
)
def test_other_forms_say_what_to_write(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as error:
        parse_budget(text)
    assert repr(text) in str(error.value)
    assert "2%, a ratio such as 64x, or bytes such as 1.5MiB" in error.value.fix

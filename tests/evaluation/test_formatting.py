"""Every kind of number is written one way."""

from __future__ import annotations

import pytest

from mec.evaluation import formatting as fmt


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.98 KiB"),
        (1536, "1.50 KiB"),
        (15_360, "15.0 KiB"),
        (5 * 2**30, "5.00 GiB"),
        (2**50, "1024 TiB"),
    ],
)
def test_bytes(num_bytes: int, text: str) -> None:
    assert fmt.human_bytes(num_bytes) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0017, "+0.0017"), (-0.0017, "\N{MINUS SIGN}0.0017"), (0.00001, "0.0000"), (-0.00001, "0.0000")],
)
def test_differences(value: float, text: str) -> None:
    assert fmt.signed(value) == text


def test_the_rest() -> None:
    assert fmt.metric(0.90134) == "0.9013"
    assert fmt.metric(-0.5) == "\N{MINUS SIGN}0.5000"
    assert fmt.count(1234567) == "1,234,567"
    assert (fmt.percent(0.123), fmt.percent(0.0123), fmt.percent(0)) == ("12.3 %", "1.23 %", "0.00 %")
    assert (fmt.ratio(70.4), fmt.ratio(6.94)) == ("70\N{MULTIPLICATION SIGN}", "6.9\N{MULTIPLICATION SIGN}")
    assert (fmt.seconds(3.21), fmt.seconds(195)) == ("3.2 s", "3 min 15 s")

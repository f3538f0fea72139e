"""Curves in a line of text."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from loragraft.report.sparkline import BARS, sparkline


def test_bars_rise_with_the_values() -> None:
    assert sparkline(range(8)) == BARS
    assert sparkline([7, 0, None, math.nan, 3.6]) == "█▁  ▅"
    assert sparkline([5.0, 5.0]) == "▁▁"
    assert sparkline([]) == ""
    assert sparkline([None]) == " "


def test_bounds_may_be_given() -> None:
    assert sparkline([0.5, -1.0, 9.0], low=0.0, high=1.0) == "▅▁█"
    assert sparkline([0.5], low=1.0, high=1.0) == "▁"


def test_more_values_than_columns_are_averaged() -> None:
    assert sparkline([0, 0, 4, 4, 8, 8], width=3) == "▁▅█"
    assert sparkline([0, 8, 8, None], width=2, low=0) == "▅█"
    assert sparkline([1, 2], width=3) == "▁█"


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=40), st.integers(1, 50))
def test_every_curve_fits(values: list[float], width: int) -> None:
    text = sparkline(values, width=width)
    assert len(text) == min(width, len(values))
    assert set(text) <= set(BARS)

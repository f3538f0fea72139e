"""A curve in a line of text."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

#: From low to high, each one column wide.
BARS: Final = "▁▂▃▄▅▆▇█"
_UNKNOWN: Final = " "


def sparkline(
    values: Sequence[float | None],
    *,
    width: int | None = None,
    low: float | None = None,
    high: float | None = None,
) -> str:
    """Return numbers as bars, one each.

    Args:
        values: The curve; None and NaN are gaps.
        width: Columns at most. Where there are more values, each bar is the mean of a stretch.
        low: Value of the lowest bar, the least value by default. What is below gets that bar.
        high: Value of the highest bar, the largest value by default.

    Returns:
        As many characters as there are values, or `width` of them; equal values are low bars.
    """
    shown = _thinned([_known(value) for value in values], width)
    numbers = [value for value in shown if value is not None]
    if not numbers:
        return _UNKNOWN * len(shown)
    bottom = min(numbers) if low is None else low
    top = max(numbers) if high is None else high
    return "".join(_UNKNOWN if value is None else _bar(value, bottom, top) for value in shown)


def _known(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _bar(value: float, low: float, high: float) -> str:
    if high <= low:
        return BARS[0]
    place = int((value - low) / (high - low) * len(BARS))
    return BARS[min(max(place, 0), len(BARS) - 1)]


def _thinned(values: Sequence[float | None], width: int | None) -> list[float | None]:
    if width is None or len(values) <= width:
        return list(values)
    edges = [place * len(values) // width for place in range(width + 1)]
    return [_mean(values[start:stop]) for start, stop in pairwise(edges)]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None

"""A straight line through a few measurements: is the cost linear?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Line:
    """y ≈ start + slope · x.

    Attributes:
        start: Value at 0.
        slope: Growth per unit of x.
        deviation: Largest |y − line| / y of the points that it was fitted to.
    """

    start: float
    slope: float
    deviation: float

    @classmethod
    def through(cls, xs: Sequence[float], ys: Sequence[float]) -> Line:
        """Fit by least squares of the relative deviations, so that small values count as much.

        Raises:
            ValueError: There are fewer than two different x, or a y is not positive.
        """
        if len(set(xs)) < 2 or min(ys) <= 0.0:
            raise ValueError("a line needs two different x and positive y")
        weights = [1.0 / y**2 for y in ys]
        total = sum(weights)
        x_mean = sum(w * x for w, x in zip(weights, xs, strict=True)) / total
        y_mean = sum(w * y for w, y in zip(weights, ys, strict=True)) / total
        points = list(zip(weights, xs, ys, strict=True))
        along = sum(w * (x - x_mean) * (y - y_mean) for w, x, y in points)
        slope = along / sum(w * (x - x_mean) ** 2 for w, x, _ in points)
        start = y_mean - slope * x_mean
        deviation = max(abs(y - start - slope * x) / y for _, x, y in points)
        return cls(start, slope, deviation)

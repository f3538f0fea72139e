"""Repeated measurements: their median, and how far they lie apart."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Spread:
    """A few numbers in three."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        ordered = sorted(values)
        return cls(statistics.median(ordered), ordered[0], ordered[-1])

    @classmethod
    def ratio(cls, over: Iterable[float], under: Iterable[float]) -> Spread:
        """Divide round by round; rounds that only one of the two had do not count."""
        return cls.of(a / b for a, b in zip(over, under, strict=False))

    def text(self, digits: int) -> str:
        """Return ``median (least–most)``, or the one number where there is no more."""
        one = f"{self.median:.{digits}f}"
        ends = f"{self.least:.{digits}f}–{self.most:.{digits}f}"
        return one if self.least == self.most else f"{one} ({ends})"

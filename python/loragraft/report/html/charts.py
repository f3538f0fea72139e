"""What the page draws, as data: the scripts know how, and nothing of adapters."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from loragraft.report.html.figures import Form, brief

if TYPE_CHECKING:
    from collections.abc import Sequence


class Scale(StrEnum):
    """How colours stand for figures."""

    #: From zero or more up to one, which is the best there is.
    SHARE = "share"
    #: Over powers of ten.
    DECADES = "decades"
    #: From zero up.
    AMOUNT = "amount"
    #: Two hues, which part at zero.
    ABOUT_ZERO = "about_zero"


class Chart(Protocol):
    """Something that is drawn."""

    @property
    def title(self) -> str:
        """What it shows, with its unit."""

    def to_json(self) -> dict[str, Any]:
        """Return it as the scripts read it."""


class HeatMap(NamedTuple):
    """A figure for each kind of module in each layer.

    Attributes:
        title: What it shows.
        label: The figure and its unit, beside the colours.
        rows: Kinds of modules.
        columns: Layers.
        values: (rows, columns); None where there is nothing.
        words: What a cell says of itself, in the same order.
        scale: How colours stand for the figures.
        form: What the figures are.
    """

    title: str
    label: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    words: tuple[tuple[str, ...], ...]
    scale: Scale
    form: Form

    def to_json(self) -> dict[str, Any]:
        """Return it as the scripts read it."""
        values = [[brief(value) for value in row] for row in self.values]
        return {"chart": "heat_map", **self._asdict(), "values": values}


class Spectrum(NamedTuple):
    """Singular values of one kind of module, over all layers.

    Attributes:
        title: The kind.
        middle: Median of σᵢ / ‖ΔW‖ over the modules, from the first on.
        low: The least.
        high: The largest.
        floor: The largest σ that rounding alone would give, over ‖ΔW‖; None if unknown.
        rank: The rank that was written, its median; a line separates what was kept.
    """

    title: str
    middle: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    floor: float | None
    rank: int

    def to_json(self) -> dict[str, Any]:
        """Return it as the scripts read it."""
        return {
            "chart": "spectrum",
            "title": self.title,
            "floor": brief(self.floor),
            "rank": self.rank,
            **{name: _briefly(getattr(self, name)) for name in ("middle", "low", "high")},
        }


class Interval(NamedTuple):
    """A figure with its interval, in a row of its own.

    Attributes:
        row: Label of the row.
        series: Figures of one series look alike.
        value: The figure.
        low: Where its interval begins.
        high: Where it ends.
        words: What it says of itself.
    """

    row: str
    series: str
    value: float
    low: float
    high: float
    words: str


class Forest(NamedTuple):
    """Intervals below each other on one axis.

    Attributes:
        title: What it shows.
        label: The axis, with its unit.
        intervals: The figures.
        marks: Values at which a line is drawn, and what it stands for.
        bars: Whether bars reach from zero to the figures.
    """

    title: str
    label: str
    intervals: tuple[Interval, ...]
    marks: tuple[tuple[float, str], ...]
    bars: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return it as the scripts read it."""
        return {
            "chart": "forest",
            **self._asdict(),
            "intervals": [one._asdict() for one in self.intervals],
        }


def _briefly(values: Sequence[float]) -> list[float | None]:
    return [brief(value) for value in values]

"""Tables in Markdown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure that must be reached.

    Attributes:
        figure: What it is.
        required: The bar, in words.
        measured: What was measured, in words.
        met: Whether the bar was reached.
    """

    figure: str
    required: str
    measured: str
    met: bool


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; every column but the first is right-aligned."""
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows)) + "\n"


def bars_table(bars: Iterable[Bar]) -> str:
    """Return the table of all bars."""
    rows = [
        [bar.figure, bar.required, bar.measured, "yes" if bar.met else "**no**"] for bar in bars
    ]
    return table(["Figure", "Required", "Measured", "Met"], rows)

"""Tables in Markdown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_ANSWERS: Final = {True: "yes", False: "**no**", None: "not run"}


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure that must be reached.

    Attributes:
        figure: What it is.
        required: The bar, in words; empty where the figure is only told.
        measured: What was measured, in words.
        met: Whether the bar was reached; None where nothing could be measured.
        dream: A bar that would be better still, in words; empty where there is none.
        dreamt: Whether even that was reached.
    """

    figure: str
    required: str
    measured: str
    met: bool | None
    dream: str = ""
    dreamt: bool | None = None

    @classmethod
    def at_least(
        cls, figure: str, value: float, required: float, measured: str, dream: float
    ) -> Bar:
        """Return a bar to come up to."""
        words = (f"at least {required:g}", f"{dream:g}")
        return cls(figure, words[0], measured, value >= required, words[1], value >= dream)

    @classmethod
    def at_most(
        cls, figure: str, value: float, required: float, measured: str, dream: float | None = None
    ) -> Bar:
        """Return a bar to stay under."""
        words = (f"at most {required:g}", "" if dream is None else f"{dream:g}")
        dreamt = None if dream is None else value <= dream
        return cls(figure, words[0], measured, value <= required, words[1], dreamt)

    @classmethod
    def not_run(cls, figure: str, required: str, why: str) -> Bar:
        """Return a bar that nobody could try."""
        return cls(figure, required, f"not run: {why}", None)

    @classmethod
    def told(cls, figure: str, measured: str) -> Bar:
        """Return a figure of which nothing is required."""
        return cls(figure, "", measured, None)

    def row(self) -> list[str]:
        """Return the cells of the table of bars."""
        dream = f"{self.dream} ({'yes' if self.dreamt else 'no'})" if self.dream else ""
        answer = _ANSWERS[self.met] if self.required else ""
        return [self.figure, self.required, self.measured, answer, dream]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; every column but the first is right-aligned."""
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows)) + "\n"


def bars_table(bars: Iterable[Bar]) -> str:
    """Return the table of all bars."""
    head = ["Figure", "Required", "Measured", "Met", "Better still (reached)"]
    return table(head, [bar.row() for bar in bars])

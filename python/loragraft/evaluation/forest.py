"""Differences and their intervals as lines of text, on one axis."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.text import Text

_ZERO: Final = "│"
_LINE: Final = "─"
_CROSSED: Final = "┼"
_POINT: Final = "●"
_LEFT: Final = "├"
_RIGHT: Final = "┤"
_GAP: Final = 2
_MOST_LABEL: Final = 28
#: Columns of the axis.
_NARROWEST: Final = 12
_WIDEST: Final = 60


class Row(NamedTuple):
    """One interval.

    Attributes:
        label: Of whom.
        value: The point.
        low: Its lower end.
        high: Its upper end.
        text: The figures, on the right.
        style: In which Rich shows it.
    """

    label: str
    value: float
    low: float
    high: float
    text: str
    style: str = ""


class Forest(NamedTuple):
    """Intervals one below the other; those right of the line are above 0.

    Attributes:
        title: What is shown, with its unit.
        rows: At least one.
    """

    title: str
    rows: tuple[Row, ...]

    def is_simple(self) -> bool:
        """Whether it can do without Rich."""
        return all(text.isascii() and text.isprintable() for row in self.rows for text in row[:1])

    def lines(self, width: int) -> Iterator[str]:
        """Lay it out; the figures give way first where there is no room, then the axis."""
        label = min(_MOST_LABEL, max(len(row.label) for row in self.rows), max(1, width // 3))
        figures = max(len(row.text) for row in self.rows)
        room = width - label - _GAP
        if room - figures - _GAP < _NARROWEST:
            figures = 0
        columns = max(3, min(_WIDEST, room - (figures + _GAP if figures else 0)))
        scale = _scale(self.rows, columns)
        yield _cut(self.title, width)
        for row in self.rows:
            head = _cut(row.label, label).ljust(label + _GAP) + _drawn(row, scale, columns)
            yield f"{head}{' ' * _GAP}{row.text.rjust(figures)}" if figures else head.rstrip()
        yield f"{' ' * (label + _GAP)}{_axis(scale, columns)}".rstrip()

    def __rich__(self) -> RenderableType:
        return _Coloured(self)


class _Scale(NamedTuple):
    """A step of the axis, and the numbers of the first and the last that it has."""

    step: float
    first: int
    last: int

    def column(self, value: float, columns: int) -> int:
        """Return the column of a value; those beyond the axis get its ends."""
        low, high = self.step * self.first, self.step * self.last
        place = round((value - low) / (high - low) * (columns - 1))
        return min(max(place, 0), columns - 1)


class _Coloured(NamedTuple):
    """Intervals as Rich shows them: as wide as the terminal, differences in colours."""

    forest: Forest

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        del console
        from rich.text import Text  # noqa: PLC0415 -- only terminals need it

        styles = ["bold", *(row.style for row in self.forest.rows), "dim"]
        lines = self.forest.lines(options.max_width)
        for line, style in zip(lines, styles, strict=True):
            yield Text(line, style=style, no_wrap=True, overflow="crop")


def _scale(rows: tuple[Row, ...], columns: int) -> _Scale:
    """Return an axis of round numbers that holds all intervals, and 0."""
    low = min(0.0, *(row.low for row in rows), *(row.value for row in rows))
    high = max(0.0, *(row.high for row in rows), *(row.value for row in rows))
    reach = (high - low) or 1.0
    least = reach / max(2, columns // 10)
    power = 10.0 ** math.floor(math.log10(least))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least)
    first = math.floor(low / step)
    return _Scale(step, first, max(math.ceil(high / step), first + 1))


def _drawn(row: Row, scale: _Scale, columns: int) -> str:
    low, value, high = (scale.column(figure, columns) for figure in (row.low, row.value, row.high))
    zero = scale.column(0.0, columns)
    cells = [" "] * columns
    cells[zero] = _ZERO
    for place in range(low, high + 1):
        cells[place] = _CROSSED if place == zero else _LINE
    if low < high:
        cells[low], cells[high] = _LEFT, _RIGHT
    cells[value] = _POINT
    return "".join(cells)


def _axis(scale: _Scale, columns: int) -> str:
    """Number the steps, where there is room."""
    text = ""
    for number in range(scale.first, scale.last + 1):
        value = number * scale.step
        name = f"{value:g}".replace("-", "−")
        start = min(max(0, scale.column(value, columns) - len(name) // 2), columns - len(name))
        if not text or start > len(text):
            text = text.ljust(start) + name
    return text


def _cut(text: str, width: int) -> str:
    text = "".join(letter if letter.isprintable() else "�" for letter in text)
    return text if len(text) <= width else f"{text[: width - 1]}…"

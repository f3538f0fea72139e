"""A map of layers and kinds of modules in characters, legible without colour."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING, Final, NamedTuple

from loragraft.report.page import is_simple_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.text import Text

    from loragraft.comparison.grid import Grid
    from loragraft.comparison.measures import Measure

#: From little to much.
SHADES: Final = "·░▒▓█"
UNDEFINED: Final = "?"
_ABSENT: Final = " "
_STYLES: Final = ("dim", "blue", "cyan", "green", "bold yellow", "magenta")
#: Layers to a line are a multiple of it where there are more than that.
_STEP: Final = 10
_MOST_LABEL: Final = 28
_GAP: Final = 2


class HeatMap(NamedTuple):
    """One figure of all modules: a character for each.

    Attributes:
        grid: The cells.
        measure: The figure.
    """

    grid: Grid
    measure: Measure

    def is_simple(self) -> bool:
        """Whether it can do without Rich."""
        return all(map(is_simple_text, self.grid.rows))

    def lines(self, width: int) -> Iterator[str]:
        """Lay it out: lines of layers one below the other, where one line cannot hold them."""
        label = min(_MOST_LABEL, max(map(len, self.grid.rows)), max(1, width // 2))
        yield from self.title(width)
        for columns in self._parts(width - label - _GAP):
            yield _shortened("layer", label).ljust(label + _GAP) + self._axis(columns)
            for row, name in enumerate(self.grid.rows):
                cells = "".join(self._cell(row, column) for column in columns)
                yield f"{_shortened(name, label).ljust(label)}{' ' * _GAP}{cells}".rstrip()
        yield from self._legend(width)

    def title(self, width: int) -> list[str]:
        """Return the heading."""
        return textwrap.wrap(self.measure.title, width)

    def __rich__(self) -> RenderableType:
        return _Coloured(self)

    def _parts(self, width: int) -> Iterator[range]:
        """Yield the columns of every line."""
        count = len(self.grid.layers)
        most = max(1, width)
        if _STEP < most < count:
            most -= most % _STEP
        for start in range(0, count, most):
            yield range(start, min(count, start + most))

    def _axis(self, columns: range) -> str:
        """Number the first layer of a line, and every tenth that there is room for."""
        text = ""
        for place, column in enumerate(columns):
            layer = self.grid.layers[column]
            wanted = place == 0 or layer < 0 or layer % _STEP == 0
            if wanted and (not text or len(text) < place):
                text = text.ljust(place) + self.grid.heading(column)
        return text

    def _cell(self, row: int, column: int) -> str:
        module = self.grid.cells.get((row, column))
        if module is None:
            return _ABSENT
        value = self.measure.value(module)
        return UNDEFINED if value is None else SHADES[self.measure.shade(value)]

    def _legend(self, width: int) -> Iterator[str]:
        parts = [f"{shade} {name}" for shade, name in zip(SHADES, self.measure.shades, strict=True)]
        if any(self.measure.value(module) is None for module in self.grid.cells.values()):
            parts.append(f"{UNDEFINED} undefined")
        line = ""
        for part in parts:
            if line and len(line) + 3 + len(part) > width:
                yield line
                line = ""
            line = f"{line}   {part}" if line else part
        yield line


class _Coloured(NamedTuple):
    """A map as Rich shows it: as wide as the terminal, its shades in colours."""

    map: HeatMap

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        del console
        from rich.text import Text  # noqa: PLC0415 -- only terminals need it

        titles = len(self.map.title(options.max_width))
        styles = dict(zip((*SHADES, UNDEFINED), _STYLES, strict=True))
        for place, line in enumerate(self.map.lines(options.max_width)):
            style = "bold" if place < titles else ""
            text = Text(line, style=style, no_wrap=True, overflow="crop")
            for shade, style in styles.items():
                text.highlight_regex(f"{re.escape(shade)}+", style)
            yield text


def _shortened(name: str, width: int) -> str:
    name = "".join(letter if letter.isprintable() else "�" for letter in name)
    return name if len(name) <= width else f"…{name[len(name) - width + 1 :]}"

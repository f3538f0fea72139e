"""A page for people to read, as data: laid out by Rich or, at its simplest, here.

Rich is what terminals get. A file or a pipe gets the same characters without it where nothing is
to be coloured or cut: to load Rich takes longer than to extract from a small model.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from loragraft.wording import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rich.console import RenderableType

#: Besides ASCII, what is known to be one column wide.
_NARROW: Final = frozenset("–−±×·…√Δ‖²▁▂▃▄▅▆▇█")
_WORD: Final = re.compile(r"\s*\S+\s*")
#: An emoji's name, or an escaped character.
_MARKUP: Final = re.compile(r":\S+:|\\")


class Line(NamedTuple):
    """A line of text, and the style in which Rich shows it."""

    text: str
    style: str = ""

    def is_simple(self) -> bool:
        """Whether it can do without Rich."""
        return is_simple_text(self.text)

    def lines(self, width: int) -> Iterator[str]:
        """Lay it out as Rich does, broken before a word that does not fit."""
        if len(self.text) <= width:
            yield self.text
            return
        lines = [""]
        for word in _WORD.findall(self.text):
            if lines[-1] and len(lines[-1]) + len(word.rstrip()) > width:
                lines.append("")
            lines[-1] += word
        # Spaces may hang over the edge, and are cut; words may not.
        yield from (line[: max(width, len(line.rstrip()))] for line in lines)

    def __rich__(self) -> RenderableType:
        from rich.text import Text  # noqa: PLC0415 -- see the top

        return Text(printable(self.text), style=self.style)


class Facts(NamedTuple):
    """Names, and what is to be said of each."""

    rows: tuple[tuple[str, str], ...]

    def is_simple(self) -> bool:
        """Whether they can do without Rich."""
        return _are_simple(self.rows)

    def lines(self, _width: int) -> Iterator[str]:
        """Lay them out as Rich does."""
        widths = _widths(self.rows)
        return ("  ".join(_aligned(row, widths, words=2)) for row in self.rows)

    def __rich__(self) -> RenderableType:
        from rich import table  # noqa: PLC0415 -- see the top

        drawn = table.Table.grid(padding=(0, 2))
        drawn.add_column(style="bold")
        drawn.add_column(overflow="fold")
        for row in self.rows:
            drawn.add_row(*map(_escaped, row))
        return drawn


class Table(NamedTuple):
    """Figures under headings.

    Attributes:
        columns: The headings.
        rows: The cells.
        total: The cells of a last row that stands apart; empty for none.
        words: How many of the columns, the first ones, hold words and not numbers.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    total: tuple[str, ...] = ()
    words: int = 1

    def is_simple(self) -> bool:
        """Whether it can do without Rich."""
        return _are_simple((self.columns, *self.rows, self.total))

    def lines(self, _width: int) -> Iterator[str]:
        """Lay it out as Rich does."""
        totals = (self.total,) if self.total else ()
        widths = _widths((self.columns, *self.rows, *totals))
        inner = sum(widths) + 3 * (len(widths) - 1)
        blank = " " * (inner + 2)
        heading, *rows = (
            f" {'   '.join(_aligned(row, widths, self.words))} "
            for row in (self.columns, *self.rows, *totals)
        )
        yield from (blank, heading, f" {'─' * inner} ", *rows[: len(self.rows)], blank)
        for total in rows[len(self.rows) :]:
            yield from (total, blank)

    def __rich__(self) -> RenderableType:
        from rich import box, table  # noqa: PLC0415 -- see the top

        drawn = table.Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for position, column in enumerate(self.columns):
            justify = "left" if position < self.words else "right"
            drawn.add_column(_escaped(column), justify=justify, no_wrap=True)  # type: ignore[arg-type]
        for row in self.rows:
            drawn.add_row(*map(_escaped, row))
        if self.total:
            drawn.add_section()
            drawn.add_row(*map(_escaped, self.total), style="bold")
        return drawn


class Part(Protocol):
    """Something on a page."""

    def is_simple(self) -> bool:
        """Whether it can do without Rich."""

    def lines(self, width: int, /) -> Iterator[str]:
        """Lay it out as Rich does."""

    def __rich__(self) -> RenderableType:
        """Return what Rich lays out."""


class Page(NamedTuple):
    """What there is to read, one part below the other."""

    parts: tuple[Part, ...]

    def plain(self, width: int) -> str | None:
        """Lay the page out without Rich, which would give the same.

        Args:
            width: Of the page, in columns.

        Returns:
            The text; None where only Rich can tell what becomes of it.
        """
        if not all(part.is_simple() for part in self.parts):
            return None
        lines = [line for part in self.parts for line in part.lines(width)]
        return "".join(f"{line}\n" for line in lines) if _fits(lines, width) else None

    def __rich__(self) -> RenderableType:
        from rich.console import Group  # noqa: PLC0415 -- see the top

        return Group(*self.parts)


def is_simple_text(text: str) -> bool:
    """Whether a text takes one line, each character one column, and stands for itself."""
    narrow = text.isprintable() and all(c.isascii() or c in _NARROW for c in text)
    return narrow and not _MARKUP.search(text)


def _escaped(text: str) -> str:
    """Return what makes Rich show a text out of a file, and do nothing else."""
    from rich.markup import escape  # noqa: PLC0415 -- see the top

    return escape(printable(text))


def _are_simple(rows: Iterable[Iterable[str]]) -> bool:
    """Whether all cells are simple texts, and none has spaces at its ends, which may get lost."""
    return all(is_simple_text(text) and text == text.strip() for row in rows for text in row)


def _fits(lines: Iterable[str], width: int) -> bool:
    return all(len(line) <= width for line in lines)


def _widths(rows: Iterable[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def _aligned(cells: Iterable[str], widths: Sequence[int], words: int) -> Iterator[str]:
    for position, (text, width) in enumerate(zip(cells, widths, strict=True)):
        yield text.ljust(width) if position < words else text.rjust(width)

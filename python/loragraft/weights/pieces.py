"""Matrices taken apart into the pieces that one tensor holds each."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from loragraft.weights.source import Interleaved, Microscaled, Plain, Q8Blocks, Scaled, Stacked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loragraft.weights.source import Source

    Leaf = Plain | Scaled | Microscaled | Q8Blocks


class Piece(NamedTuple):
    """Rows of a matrix that lie together in the files.

    Attributes:
        source: Where they lie; a matrix of these rows alone.
        rows: Which rows of the whole matrix they are, in the order of ``source``.
    """

    source: Leaf
    rows: range

    def within(self, start: int, stop: int) -> range:
        """Return which rows of ``source`` are among rows ``start:stop`` of the whole matrix."""
        first, step = self.rows.start, self.rows.step
        low = max(0, -(-(start - first) // step))
        high = min(len(self.rows), -(-(stop - first) // step))
        return range(low, max(low, high))

    def slots(self, own: range, start: int) -> slice:
        """Return where rows ``own`` of ``source`` stand in a slab that begins at row ``start``."""
        rows = self.rows[own.start : own.stop]
        return slice(rows.start - start, rows.stop - start, rows.step)


def pieces(source: Source) -> Iterator[Piece]:
    """Yield the pieces of a matrix; together they have every row once."""
    match source:
        case Stacked(parts):
            above = 0
            for part in parts:
                for piece in pieces(part):
                    yield piece._replace(rows=_moved(piece.rows, 1, above))
                above += part.rows
        case Interleaved(parts):
            for number, part in enumerate(parts):
                for piece in pieces(part):
                    yield piece._replace(rows=_moved(piece.rows, len(parts), number))
        case _:
            yield Piece(source, range(source.rows))


def _moved(rows: range, scale: int, shift: int) -> range:
    """Return the rows ``scale * i + shift``."""
    start = scale * rows.start + shift
    return range(start, start + scale * rows.step * len(rows), scale * rows.step)

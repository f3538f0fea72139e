"""Where the entries of a matrix lie in the files, and what they stand for.

A checkpoint may hold a matrix as a tensor of its own, as a slice of a larger one, row by row or
column by column, in several pieces, or as codes with scales. Sources describe all of these alike;
nothing is read here.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from loragraft.tensor_entry import TensorEntry


class Plain(NamedTuple):
    """Entry (i, j) is number ``first + i * row_stride + j * column_stride`` of a tensor.

    Attributes:
        entry: The tensor.
        rows: Rows of the matrix.
        columns: Columns of the matrix.
        first: Numbers before entry (0, 0).
        row_stride: Numbers from one row to the next.
        column_stride: Numbers from one column to the next.
    """

    entry: TensorEntry
    rows: int
    columns: int
    first: int
    row_stride: int
    column_stride: int

    @property
    def entries(self) -> tuple[TensorEntry, ...]:
        """The tensors that are read."""
        return (self.entry,)

    @property
    def by_columns(self) -> bool:
        """Whether columns lie together and rows do not."""
        return self.row_stride == 1 and self.column_stride != 1

    def transposed(self) -> Plain:
        """Return the transposed matrix."""
        entry, rows, columns, first, down, across = self
        return Plain(entry, columns, rows, first, across, down)

    def rows_from(self, start: int, count: int, step: int = 1) -> Plain:
        """Return ``count`` rows, from ``start`` on, every ``step``-th."""
        first = self.first + start * self.row_stride
        return self._replace(rows=count, first=first, row_stride=step * self.row_stride)


class _Parts(NamedTuple):
    """A matrix made of others of as many columns."""

    parts: tuple[Source, ...]

    @property
    def rows(self) -> int:
        """Rows of all parts together."""
        return sum(part.rows for part in self.parts)

    @property
    def columns(self) -> int:
        """Columns of every part."""
        return self.parts[0].columns

    @property
    def entries(self) -> tuple[TensorEntry, ...]:
        """The tensors that are read."""
        return tuple(dict.fromkeys(entry for part in self.parts for entry in part.entries))

    @property
    def by_columns(self) -> bool:
        """Whether columns lie together and rows do not."""
        return False


class Stacked(_Parts):
    """The rows of several matrices, those of the first on top."""

    __slots__ = ()


class Interleaved(_Parts):
    """The rows of several matrices in turn: row i is row ``i // n`` of part ``i % n``."""

    __slots__ = ()


class Scaled(NamedTuple):
    """Codes times scales: entry (i, j) is ``factor * codes(i, j) * scales(i // br, j // bc)``.

    Attributes:
        codes: Small floats or integers.
        scales: One number per block.
        block: ``(br, bc)``, the block's rows and columns.
        factor: Of all entries.
    """

    codes: Plain
    scales: Plain
    block: tuple[int, int]
    factor: float = 1.0

    @property
    def rows(self) -> int:
        """Rows of the matrix."""
        return self.codes.rows

    @property
    def columns(self) -> int:
        """Columns of the matrix."""
        return self.codes.columns

    @property
    def entries(self) -> tuple[TensorEntry, ...]:
        """The tensors that are read."""
        return (self.codes.entry, self.scales.entry)

    @property
    def by_columns(self) -> bool:
        """Whether columns lie together and rows do not."""
        return self.codes.by_columns

    def transposed(self) -> Scaled:
        """Return the transposed matrix."""
        return Scaled(
            self.codes.transposed(), self.scales.transposed(), self.block[::-1], self.factor
        )


class Microscaled(NamedTuple):
    """MXFP4: 32 numbers of 4 bits share one power of two (OCP Microscaling Formats 1.0).

    Entry (i, j) is number ``32 b + k`` of row ``first_row + step * i``, its code in the low half of
    byte ``k // 2`` of block b where k is even, in the high half where it is odd.

    Attributes:
        blocks: Codes, ``uint8``, 16 bytes a block.
        scales: Exponents with a bias of 127, ``uint8``, one a block.
        rows: Rows of the matrix.
        columns: Columns of the matrix, a multiple of 32.
        first_row: Rows of ``columns / 32`` blocks before the first.
        step: From one row to the next.
    """

    blocks: TensorEntry
    scales: TensorEntry
    rows: int
    columns: int
    first_row: int = 0
    step: int = 1

    @property
    def entries(self) -> tuple[TensorEntry, ...]:
        """The tensors that are read."""
        return (self.blocks, self.scales)

    @property
    def by_columns(self) -> bool:
        """Whether columns lie together and rows do not."""
        return False

    def rows_from(self, start: int, count: int, step: int = 1) -> Microscaled:
        """Return ``count`` rows, from ``start`` on, every ``step``-th."""
        return self._replace(
            rows=count, first_row=self.first_row + start * self.step, step=step * self.step
        )


class Q8Blocks(NamedTuple):
    """Q8_0 of ggml: 32 numbers of a row share a scale in half precision.

    Entry (i, j) is code ``j % 32`` times the scale of block ``j // 32`` of row
    ``first_row + step * i``. A block is 34 bytes: the scale, then 32 integers with a sign.

    Attributes:
        entry: The tensor.
        rows: Rows of the matrix.
        columns: Columns of the matrix, a multiple of 32.
        first_row: Rows before the first.
        step: From one row to the next.
    """

    entry: TensorEntry
    rows: int
    columns: int
    first_row: int = 0
    step: int = 1

    @property
    def entries(self) -> tuple[TensorEntry, ...]:
        """The tensors that are read."""
        return (self.entry,)

    @property
    def by_columns(self) -> bool:
        """Whether columns lie together and rows do not."""
        return False

    def rows_from(self, start: int, count: int, step: int = 1) -> Q8Blocks:
        """Return ``count`` rows, from ``start`` on, every ``step``-th."""
        return self._replace(
            rows=count, first_row=self.first_row + start * self.step, step=step * self.step
        )


Source = Plain | Stacked | Interleaved | Scaled | Microscaled | Q8Blocks


def matrix_of(entry: TensorEntry) -> Plain:
    """Return a whole tensor as a matrix, of one row where it has a single dimension or none.

    Dimensions before the last two are taken for rows.
    """
    columns = entry.shape[-1] if entry.shape else 1
    rows = math.prod(entry.shape) // columns if columns else 0
    return Plain(entry, rows, columns, 0, columns, 1)


def slices_of(entry: TensorEntry) -> tuple[Plain, ...]:
    """Return the matrices that a three-dimensional tensor stacks."""
    count, rows, columns = entry.shape
    size = rows * columns
    return tuple(Plain(entry, rows, columns, i * size, columns, 1) for i in range(count))

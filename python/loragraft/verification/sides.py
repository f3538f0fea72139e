"""A module on both sides, the same way round, in slabs of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from loragraft.adapter.orientation import as_stored
from loragraft.errors import NonFiniteError
from loragraft.finiteness import found_in
from loragraft.weights.pieces import pieces
from loragraft.weights.reader import rows, stored_rows, weight_dtype
from loragraft.wording import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from loragraft.alignment import ModulePair
    from loragraft.tensor_reader import TensorReader
    from loragraft.verification.tally import Tally
    from loragraft.weights.pieces import Piece
    from loragraft.weights.source import Source


class Sides(NamedTuple):
    """One matrix of a module on both sides.

    Attributes:
        base: W_base.
        tuned: W_tuned, the same way round.
        dtype: What W_tuned is stored in; None where it is stored as codes.
    """

    base: Source
    tuned: Source
    dtype: str | None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns, the way round that is compared."""
        return self.base.rows, self.base.columns

    @property
    def names(self) -> tuple[set[str], set[str]]:
        """Tensors that the matrix is read from in BASE, and others that it is in TUNED."""
        base = {entry.name for entry in self.base.entries}
        return base, {entry.name for entry in self.tuned.entries} - base

    def read(
        self, reader: TensorReader, start: int, stop: int
    ) -> tuple[NDArray[np.float32], NDArray[np.generic]]:
        """Return rows of W_base widened, and of W_tuned as stored, or decoded without a dtype."""
        base = rows(reader, self.base, start, stop)
        if self.dtype is None:
            return base, rows(reader, self.tuned, start, stop)
        return base, stored_rows(reader, self.tuned, start, stop)

    def parts(self, start: int, stop: int) -> Iterator[tuple[Piece, slice]]:
        """Yield which rows of a slab come from which piece of W_base."""
        for piece in pieces(self.base):
            own = piece.within(start, stop)
            if own:
                yield piece, piece.slots(own, start)

    def check(self, reader: TensorReader, piece: Piece, tally: Tally) -> None:
        """Refuse sums that are not finite.

        Raises:
            NonFiniteError: With the names of the tensors.
        """
        if tally.finite:
            return
        found = found_in(reader, (*piece.source.entries, *self.tuned.entries))
        if found is not None:
            entry, what = found
            raise NonFiniteError(
                f"{shown(entry.path)}: tensor {entry.name} holds {what}: expected finite weights;"
                " repair that checkpoint"
            )
        base = piece.source.entries[0]
        raise NonFiniteError(
            f"tensor {base.name} has codes or scales that are no numbers, or scaling·B·A"
            " overflows: expected finite values; repair that checkpoint or adapter"
        )


def sides_of(pair: ModulePair) -> tuple[bool, list[Sides]]:
    """Return whether a module is compared as ``[in, out]``, and its matrices, one per expert."""
    transposed, (ours, theirs) = as_stored(pair.base, pair.tuned)
    matrices = [
        Sides(base, tuned, weight_dtype(tuned)) for base, tuned in zip(ours, theirs, strict=True)
    ]
    return transposed, matrices

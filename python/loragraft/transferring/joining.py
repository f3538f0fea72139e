"""Factors of the parts of a fused layer, put together as those of the whole, and taken apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from loragraft.transferring.update import Update, balanced

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

#: Singular values below this part of the largest, for each row or column, are those of rounding.
_ROUNDING: Final = float(np.finfo(np.float64).eps)


class RowFactors(NamedTuple):
    """Factors of some rows of a layer, numbers or bit patterns alike.

    Attributes:
        rows: Which rows, block by block, m in all.
        B: (m, r).
        A: (r, in).
    """

    rows: tuple[range, ...]
    B: NDArray[Any]
    A: NDArray[Any]


def indices(rows: Sequence[range]) -> NDArray[np.intp]:
    """Return the numbers of rows that are told block by block."""
    return np.concatenate([np.arange(one.start, one.stop) for one in rows])


def taken(factors: RowFactors) -> RowFactors:
    """Return the factors of some rows out of those of all, exactly.

    Columns of B that are zero in these rows are dropped with their rows of A: they are those of
    other parts, as `stacked` puts them side by side.

    Args:
        factors: The rows that are wanted, B of all rows, and A.
    """
    B = factors.B[indices(factors.rows)]
    used = np.any(B != 0, axis=0)
    return RowFactors(factors.rows, B[:, used], factors.A[used])


def stacked(out: int, parts: Sequence[RowFactors]) -> tuple[NDArray[Any], ...]:
    """Return B and A of a whole layer, exactly: every number is one of the parts', or zero.

    Parts of the same A share it, so what was taken apart has its own rank again. The others have
    columns of their own: the rank is the sum of theirs.

    Args:
        out: Rows of the layer.
        parts: Factors of its parts, at least one, all of one dtype.

    Returns:
        B (out, R) and A (R, in).
    """
    places: list[tuple[int, RowFactors]] = []
    rank = 0
    for part in parts:
        place = next((at for at, other in places if np.array_equal(other.A, part.A)), rank)
        rank = max(rank, place + len(part.A))
        places.append((place, part))
    B = np.zeros((out, rank), parts[0].B.dtype)
    A = np.zeros((rank, parts[0].A.shape[1]), parts[0].A.dtype)
    for place, part in places:
        columns = slice(place, place + len(part.A))
        B[indices(part.rows), columns] = part.B
        A[columns] = part.A
    return B, A


def least_rank(update: Update) -> Update:
    """Return an update refactored with no more columns than it needs to be what it is."""
    (m, r), n = update.B.shape, update.A.shape[1]
    found = balanced(update, min(m, r, n)).update
    # Both factors carry the root of each singular value.
    values = np.sum(np.square(found.B), axis=0)
    needed = max(1, int(np.count_nonzero(values > max(m, n) * _ROUNDING * values[0])))
    return Update(found.B[:, :needed], found.A[:needed])

"""Who belongs to whom: assignments of the largest summed score."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Scores = NDArray[np.floating]
    #: Scores of some rows with all columns: (start, stop) -> (stop - start, columns).
    Slab = Callable[[int, int], Scores]

#: Candidates kept for each row in a round of the greedy assignment.
_CANDIDATES: Final = 16
_ROWS: Final = 1024


def assign(scores: Scores) -> NDArray[np.intp]:
    """Return the column of every row so that the sum of scores is largest, no column twice.

    The Hungarian method by shortest augmenting paths (Jonker and Volgenant, Computing 38, 1987,
    without the initial reductions): O(rows² · columns).

    Args:
        scores: (rows, columns), finite, rows <= columns.
    """
    cost = -np.asarray(scores, np.float64)
    rows, columns = cost.shape
    # Column 0 is a dummy in which each path starts.
    u, v = np.zeros(rows), np.zeros(columns + 1)
    owner = np.full(columns + 1, -1, np.intp)
    for row in range(rows):
        owner[0] = row
        least = np.full(columns + 1, np.inf)
        before = np.zeros(columns + 1, np.intp)
        done = np.zeros(columns + 1, bool)
        at = 0
        while owner[at] >= 0:
            done[at] = True
            own = owner[at]
            reduced = cost[own] - u[own] - v[1:]
            better = ~done[1:] & (reduced < least[1:])
            least[1:][better] = reduced[better]
            before[1:][better] = at
            following = int(np.argmin(np.where(done, np.inf, least)))
            step = least[following]
            u[owner[done]] += step
            v[done] -= step
            least[~done] -= step
            at = following
        while at:
            owner[at] = owner[before[at]]
            at = int(before[at])
    found = np.zeros(rows, np.intp)
    taken = np.flatnonzero(owner[1:] >= 0)
    found[owner[1:][taken]] = taken
    return found


def shared_assignment(scores: Scores) -> list[tuple[int, int]]:
    """Pair every row with a column and every column with a row, as evenly as the numbers allow.

    The smaller side is repeated until it is as large as the other, then each belongs to one.

    Args:
        scores: (rows, columns).
    """
    rows, columns = scores.shape
    if rows > columns:
        return sorted((row, column) for column, row in shared_assignment(scores.T))
    times = -(-columns // rows)
    slots = np.tile(np.asarray(scores, np.float64), (times, 1)).T
    # No row a second time before all have had their first.
    slots[:, :rows] += np.ptp(scores) + 1.0
    return sorted((int(one) % rows, column) for column, one in enumerate(assign(slots)))


def greedy(slab: Slab, rows: int, columns: int) -> NDArray[np.intp]:
    """Return a column for every row, no column twice: the best pair first, then the best left.

    For sides too large for `assign`; the scores are looked at a slab at a time and never held.

    Args:
        slab: Gives the scores of some rows with all columns.
        rows: How many there are.
        columns: At least as many.

    Returns:
        (rows,); −1 nowhere.
    """
    found = np.full(rows, -1, np.intp)
    free = np.ones(columns, bool)
    while (found < 0).any():
        edges = [
            _candidates(slab(start, min(rows, start + _ROWS)), free, start, found)
            for start in range(0, rows, _ROWS)
        ]
        score, row, column = (np.concatenate(part) for part in zip(*edges, strict=True))
        for edge in np.argsort(-score, kind="stable"):
            if found[row[edge]] < 0 and free[column[edge]]:
                found[row[edge]] = column[edge]
                free[column[edge]] = False
    return found


def _candidates(
    scores: Scores, free: NDArray[np.bool_], start: int, found: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.intp], NDArray[np.intp]]:
    """Return the best free columns of the rows that have none yet: scores, rows and columns."""
    open_rows = np.flatnonzero(found[start : start + len(scores)] < 0)
    columns = np.flatnonzero(free)
    some = scores[np.ix_(open_rows, columns)]
    kept = min(_CANDIDATES, columns.size)
    best = np.argpartition(-some, kept - 1, axis=1)[:, :kept]
    values = np.take_along_axis(some, best, axis=1).astype(np.float64)
    return values.ravel(), np.repeat(open_rows + start, kept), columns[best].ravel()

"""Who belongs to whom: assignments of the largest summed score."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Scores = NDArray[np.floating]
    Places = NDArray[np.integer]
    #: For some rows the best so many of some columns, all given by number: their scores, and their
    #: places among those columns, (rows, so many).
    Best = Callable[[NDArray[np.intp], NDArray[np.intp], int], tuple[Scores, Places]]

#: Candidates kept for each row in a round of the greedy assignment.
_CANDIDATES: Final = 16


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
        at, before = _shortest_path(cost, u, v, owner)
        while at:
            owner[at] = owner[before[at]]
            at = int(before[at])
    found = np.zeros(rows, np.intp)
    taken = np.flatnonzero(owner[1:] >= 0)
    found[owner[1:][taken]] = taken
    return found


def _shortest_path(
    cost: Scores, u: NDArray[np.float64], v: NDArray[np.float64], owner: NDArray[np.intp]
) -> tuple[int, NDArray[np.intp]]:
    """Find the nearest column that nobody owns, and move the potentials u and v along.

    Args:
        cost: (rows, columns).
        u: Of the rows.
        v: Of the dummy and the columns.
        owner: Row that owns each of them, −1 for none; the dummy's is the row that looks for one.

    Returns:
        That column, and the column before each on the way.
    """
    least = np.full(v.size, np.inf)
    before = np.zeros(v.size, np.intp)
    done = np.zeros(v.size, bool)
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
    return at, before


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


def greedy(best: Best, rows: int, columns: int) -> NDArray[np.intp]:
    """Return a column for every row, no column twice: the best pair first, then the best left.

    For sides too large for `assign`; of the scores only the best of each row are held. A
    round goes through the best candidates of all rows that have none yet; the best of all is taken
    in every round, so there is an end.

    Args:
        best: Gives the best candidates of rows.
        rows: How many there are.
        columns: At least as many.
    """
    found = np.full(rows, -1, np.intp)
    free = np.ones(columns, bool)
    while (found < 0).any():
        left, there = np.flatnonzero(found < 0), np.flatnonzero(free)
        kept = min(_CANDIDATES, there.size)
        score, place = best(left, there, kept)
        row, column = np.repeat(left, kept), there[place.ravel()]
        order = np.argsort(-score.ravel(), kind="stable")
        for own, other in zip(row[order].tolist(), column[order].tolist(), strict=True):
            if found[own] < 0 and free[other]:
                found[own] = other
                free[other] = False
    return found

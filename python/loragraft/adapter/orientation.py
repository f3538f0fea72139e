"""Which way round the matrices of a weight lie in the files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loragraft.architecture.source_parts import turned

if TYPE_CHECKING:
    from loragraft.architecture.modules import LinearModule
    from loragraft.weights.source import Source


def as_stored(*linears: LinearModule) -> tuple[bool, tuple[tuple[Source, ...], ...]]:
    """Return the matrices of a weight on one or more sides, all the same way round.

    They are ``[in, out]`` where all of them lie so in the files, for rows are read and written
    together; else ``[out, in]``.

    Returns:
        Whether they are ``[in, out]``, and the matrices of each side.
    """
    sides = [tuple(_out_in(linear)) for linear in linears]
    by_columns = all(source.by_columns for side in sides for source in side)
    if by_columns:
        return True, tuple(tuple(map(turned, side)) for side in sides)
    return False, tuple(sides)


def _out_in(linear: LinearModule) -> tuple[Source, ...]:
    return tuple(map(turned, linear.matrices)) if linear.transposed else linear.matrices

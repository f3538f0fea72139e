"""Parts of matrices that lie in files, and their transposes, where there is a way to write them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loragraft.weights.source import Microscaled, Plain, Q8Blocks, Scaled

if TYPE_CHECKING:
    from loragraft.weights.source import Source


def turned(source: Source) -> Source:
    """Return the transposed matrix.

    Raises:
        ValueError: There is no way to write it down.
    """
    if isinstance(source, Plain | Scaled):
        return source.transposed()
    raise ValueError(f"{type(source).__name__} has no transpose")


def rows_of(source: Source, start: int, count: int, step: int = 1) -> Source:
    """Return ``count`` rows, from ``start`` on, every ``step``-th.

    Raises:
        ValueError: There is no way to write them down.
    """
    if isinstance(source, Plain | Microscaled | Q8Blocks):
        return source.rows_from(start, count, step)
    if not isinstance(source, Scaled):
        raise ValueError(f"{type(source).__name__} cannot be cut")
    codes = source.codes.rows_from(start, count, step)
    down, across = source.block
    scales = source.scales
    if down == 1:
        scales = scales.rows_from(start, count, step)
    elif down >= source.rows:
        down = count
    elif step == 1 and start % down == 0:
        scales = scales.rows_from(start // down, -(-count // down))
    else:
        raise ValueError(f"a scale covers {down} rows")
    return Scaled(codes, scales, (down, across), source.factor)

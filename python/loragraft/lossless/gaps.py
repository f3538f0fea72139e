"""Ascending positions as the gaps between them, 16 bits each.

A code below 0xFFFF skips that many units and records the next one; 0xFFFF skips 0xFFFF units and
records none. A gap of g units is therefore g // 0xFFFF times 0xFFFF, and then g % 0xFFFF.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

ESCAPE: Final = 0xFFFF
#: The last position before the first one.
START: Final = -1


def encode(positions: NDArray[np.int64], last: int = START) -> NDArray[np.uint16]:
    """Return the codes of positions.

    Args:
        positions: Shape ``(n,)``, each larger than the one before it.
        last: The position before the first of them; smaller.

    Returns:
        At least n codes; the last one records a position.
    """
    skipped = np.diff(positions, prepend=np.int64(last)) - 1
    escapes = skipped // ESCAPE
    if not escapes.any():
        return skipped.astype(np.uint16)
    ends = np.cumsum(escapes + 1)
    codes = np.full(ends[-1], ESCAPE, np.uint16)
    codes[ends - 1] = skipped % ESCAPE
    return codes


def decode(codes: NDArray[np.uint16], last: int = START) -> tuple[NDArray[np.int64], int]:
    """Return the positions that codes record, and the last unit that was recorded or skipped.

    Args:
        codes: Shape ``(n,)``.
        last: The second value returned for the codes before these.
    """
    if not codes.size:
        return np.empty(0, np.int64), last
    recorded = codes != ESCAPE
    reached = last + np.cumsum(codes.astype(np.int64) + recorded)
    return reached[recorded], int(reached[-1])

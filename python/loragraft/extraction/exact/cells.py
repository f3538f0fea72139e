"""Which weights say in what rounding cell their sum lay, and what the cells alone rule out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from loragraft.weights.pieces import pieces
from loragraft.weights.source import Plain

if TYPE_CHECKING:
    from loragraft.extraction.findings import Measurement
    from loragraft.weights.source import Source

#: Formats whose cells are wide enough to tell something.
_CELLS: Final = ("BF16", "F16", "F8_E4M3", "F8_E5M2")
_BYTES: Final = ("F8_E4M3", "F8_E5M2")
#: ΔW that was rounded to bf16 before it was added, its scaling too, is off by up to this share.
BF16_SLACK: Final = 2.0**-8
#: The factorisation's optimum is an upper bound of the true one: within 0.1 %, let it be 0.5 %.
_NEAR: Final = 1.01


def format_of(tuned: Source) -> str | None:
    """Return the format that the weights of a matrix were rounded to; None where it is unclear."""
    leaves = [piece.source for piece in pieces(tuned)]
    dtypes = {leaf.entry.dtype if isinstance(leaf, Plain) else "" for leaf in leaves}
    code = dtypes.pop()
    if dtypes or code not in _CELLS:
        return None
    # Of bytes the kernels take those alone that lie in rows, one after the other.
    return None if code in _BYTES and not _is_plain(tuned) else code


def _is_plain(source: Source) -> bool:
    return isinstance(source, Plain) and source[4:] == (source.columns, 1)


def why_no_cells(tuned: Source) -> str:
    """Return why there is nothing to search in, in words."""
    leaves = [piece.source for piece in pieces(tuned)]
    if not all(isinstance(leaf, Plain) for leaf in leaves):
        return "TUNED is stored as codes with scales, whose rounding cells are unknown"
    codes = sorted({entry.dtype for leaf in leaves for entry in leaf.entries})
    return f"TUNED stores it as {' and '.join(codes)}, expected one of {', '.join(_CELLS)}"


def is_ruled_out(found: Measurement, rank: int, slack: float = 0.0) -> bool:
    """Say whether no factors of a rank can lie inside all cells, by the best there are.

    Inside the cells ‖ΔW − L‖ is at most the norm of all half cells, √(3 · Σ ulp²/12), wider by the
    slack; and no L of the rank comes closer to ΔW than Eckart and Young (1936) allow.

    Args:
        found: Of a matrix that differs.
        rank: Of the factors.
        slack: Share of |ΔW| by which every cell is wider.
    """
    halves = math.sqrt(3.0 * found.rounding_square)
    widest = (1.0 + slack) * halves + slack * math.sqrt(found.delta_square)
    return found.at(rank)[0] > _NEAR * widest * widest

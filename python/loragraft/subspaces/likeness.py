"""How close two weights of one shape are, entry by entry."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from loragraft.subspaces.weight import rows_out_in

if TYPE_CHECKING:
    from loragraft.architecture import LinearModule
    from loragraft.tensor_reader import TensorReader

_SLAB: Final = 4 << 20


class Likeness(NamedTuple):
    """Two weights A and B of one shape.

    Attributes:
        change: ‖B − A‖ / ‖A‖ (Frobenius), measured on the difference itself; None where A is 0.
        cosine: ⟨A, B⟩ / (‖A‖ ‖B‖); for unrelated weights 0 ± 1/√(mn). None where one is 0.
    """

    change: float | None
    cosine: float | None


def likeness_of(reader: TensorReader, first: LinearModule, second: LinearModule) -> Likeness:
    """Compare two weights of one shape, a few rows at a time, with sums in float64.

    Raises:
        FormatError: A file cannot be read.
    """
    rows, columns = first.shape
    step = max(1, _SLAB // (4 * columns))
    squares = [0.0, 0.0, 0.0, 0.0]
    for start in range(0, rows, step):
        stop = min(rows, start + step)
        a = rows_out_in(reader, first, start, stop).astype(np.float64).ravel()
        b = rows_out_in(reader, second, start, stop).astype(np.float64).ravel()
        d = b - a
        for place, (x, y) in enumerate(((a, a), (b, b), (a, b), (d, d))):
            squares[place] += float(x @ y)
    own, others, inner, difference = squares
    change = math.sqrt(difference / own) if own > 0.0 else None
    norms = math.sqrt(own) * math.sqrt(others)
    cosine = min(1.0, max(-1.0, inner / norms)) if norms > 0.0 else None
    return Likeness(change, cosine)

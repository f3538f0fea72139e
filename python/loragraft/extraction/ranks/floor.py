"""How large singular values get by rounding alone."""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import TYPE_CHECKING, Final

from loragraft.ggml.tensor_types import Q8_0

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loragraft.extraction.ranks.spectrum import Spectrum

#: The edge is for errors of one variance. Those of stored weights differ from row to row and from
#: column to column, which pushes the largest singular values outwards.
_MARGIN: Final = 1.1
#: Where ΔW is small beside the rounding of weights, most of them stay as they were, and what the
#: others are off by is less than rounding would be, but most uneven. This is a margin for it.
_UNEVEN: Final = 1.8
#: Quantile of the Tracy-Widom law (of real matrices) that is hardly ever exceeded: 99.9 %.
_TRACY_WIDOM: Final = 3.27
#: Squared share of ΔW that single-precision arithmetic may add as noise: (2 units)².
_ARITHMETIC: Final = 2.0**-44
#: Bits of the mantissa that are stored.
_MANTISSA: Final = {"BF16": 7, "F16": 10, "F32": 23}
#: Below this share of the largest singular value, singles say nothing.
_PRECISION: Final = 2.0**-20


def noise_edge(shape: tuple[int, int], square: float) -> float:
    """Return the largest singular value of a matrix of independent errors.

    Errors of standard deviation τ have singular values up to τ(√m + √n) (Marchenko and Pastur
    1967), and beyond it no farther than finite sizes allow (Johnstone 2001, Theorem 1.1).

    Args:
        shape: Of the matrix.
        square: Expected squared norm of the errors.
    """
    m, n = shape
    if m < 1 or n < 1 or square <= 0.0:
        return 0.0
    roots = math.sqrt(m) + math.sqrt(n)
    width = roots * (1.0 / math.sqrt(m) + 1.0 / math.sqrt(n)) ** (1.0 / 3.0)
    return math.sqrt(square / (m * n) * (roots * roots + _TRACY_WIDOM * width))


def rounding_of_pair(rounding_square: float, base: str, tuned: str) -> float:
    """Return the expected squared norm of the rounding that both sides imply.

    The base is what it is as it is stored, unless it is stored more coarsely than the tuned side:
    then that was perhaps tuned from finer weights. Q8_0 of ggml is made of finer weights always.

    Args:
        rounding_square: That of the tuned side.
        base: Safetensors code of the base's weights.
        tuned: Of the tuned ones.
    """
    if base == tuned == Q8_0:
        # Both were rounded by themselves, to steps of about the same size.
        return 2.0 * rounding_square
    coarser = _MANTISSA.get(tuned, 0) - _MANTISSA.get(base, 0)
    if base not in _MANTISSA or coarser <= 0:
        return rounding_square
    return rounding_square * (1.0 + 4.0**coarser)


def rounding_floor(delta_square: float, rounding_square: float) -> float:
    """Return the expected squared norm of what is noise in ΔW: rounding, and our arithmetic."""
    return rounding_square + _ARITHMETIC * delta_square


def floor_edge(spectrum: Spectrum, matrix: int) -> float:
    """Return what a singular value must exceed to be more than rounding.

    Args:
        spectrum: Of a module.
        matrix: Which of its matrices.
    """
    floor = rounding_floor(spectrum.delta_squares[matrix], spectrum.rounding_squares[matrix])
    largest = max(spectrum.singular_values[matrix], default=0.0)
    return max(_MARGIN * noise_edge(spectrum.shape, floor), _PRECISION * largest)


def above_floor(spectrum: Spectrum, matrix: int) -> int:
    """Count the singular values of one matrix of a module that are more than rounding.

    The floor is what rounding would give, or what the remainder as it is would give if it were
    noise, whichever is lower.
    """
    values, left_out = spectrum.singular_values[matrix], spectrum.optimum_of(matrix)
    edge = floor_edge(spectrum, matrix)
    count = count_above(values, edge)
    least = _PRECISION * max(values, default=0.0)
    rows, columns = spectrum.shape
    while count < len(values) and values[count] > least:
        if values[count] <= _UNEVEN * noise_edge((rows - count, columns - count), left_out[count]):
            break
        count += 1
    return count


def count_above(values: Sequence[float], edge: float) -> int:
    """Count the values above an edge; they must not increase."""
    return bisect_left(values, -edge, key=lambda value: -value)

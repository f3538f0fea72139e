"""The exact singular values of a matrix that is read in slabs of rows, and what they allow."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from loragraft.adapter.delta import slabs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    #: Rows ``start:stop`` of the matrix, in float64.
    Rows = Callable[[int, int], NDArray[np.float64]]

#: Slabs here are larger than elsewhere: every one is followed by a pass over the Gram matrix.
_SLAB_BYTES: Final = 16 << 20


def singular_values(rows: Rows, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Return all singular values of a matrix, descending, from its Gram matrix in float64.

    Memory: the Gram matrix on the smaller side and the eigenvalue routine's copy of it,
    16·min(m, n)² bytes, and two slabs.

    Accuracy: rounding disturbs the Gram matrix, and the eigenvalue routine its eigenvalues, by
    a small multiple of 2⁻⁵³·‖D‖², about 1e-14·‖D‖² at the sizes of language models. Squared
    singular values below that are noise, so singular values below about 1e-7·‖D‖ are too.

    Args:
        rows: Reads the matrix D.
        shape: ``(m, n)`` of D.

    Returns:
        Shape ``(min(m, n),)``.
    """
    m, n = shape
    gram = _tall_gram(rows, m, n) if n <= m else _wide_gram(rows, m, n)
    eigenvalues = np.linalg.eigvalsh(gram)[::-1]
    values: NDArray[np.float64] = np.sqrt(np.maximum(eigenvalues, 0.0))
    return values


def _tall_gram(rows: Rows, m: int, n: int) -> NDArray[np.float64]:
    """DᵀD, slab by slab."""
    gram = np.zeros((n, n))
    for start, stop in slabs(m, n, _SLAB_BYTES):
        slab = rows(start, stop)
        gram += slab.T @ slab
    return gram


def _wide_gram(rows: Rows, m: int, n: int) -> NDArray[np.float64]:
    """The lower triangle of DDᵀ in blocks, re-reading slabs rather than holding D."""
    gram = np.zeros((m, m))
    ranges = list(slabs(m, n, _SLAB_BYTES))
    for position, (start, stop) in enumerate(ranges):
        upper = rows(start, stop)
        gram[start:stop, start:stop] = upper @ upper.T
        for below, end in ranges[position + 1 :]:
            gram[below:end, start:stop] = rows(below, end) @ upper.T
    return gram


def optimal_error(values: NDArray[np.float64], rank: int) -> float:
    """Return the Eckart–Young bound: the relative error of the best rank-``rank`` approximation.

    √(Σ_{i>rank} σᵢ² / Σ σᵢ²); 0 for a zero matrix. Below about 1e-7 it is noise, see
    `singular_values`.

    Args:
        values: All singular values, descending.
        rank: Rank of the approximation.
    """
    squares = values**2
    whole = math.fsum(squares)
    return math.sqrt(math.fsum(squares[rank:]) / whole) if whole > 0.0 else 0.0


def pooled(spectra: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return, place by place, the roots of the summed squares of several matrices' values.

    The best approximations of all of them at one rank then err as `optimal_error` says of these.
    """
    if len(spectra) == 1:
        return spectra[0]
    values: NDArray[np.float64] = np.sqrt(np.sum(np.square(spectra), axis=0))
    return values

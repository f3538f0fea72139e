"""Truncated singular value decomposition of matrices in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from loragraft import native
from loragraft.errors import NonFiniteError
from loragraft.linalg.operands import SupportsDLPack, matrices, stacked, whole_number

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MOST_KEYS = 2**64
_MOST_ITERATIONS = 2**31 - 1


@dataclass(frozen=True, slots=True, eq=False)
class TruncatedSVD:
    """The leading k singular triplets of a matrix, A ≈ U diag(s) Vt, or of each of a batch.

    The largest entry by magnitude of each column of U is positive.

    Attributes:
        U: Left singular vectors, (..., m, k), orthonormal columns, float32.
        s: Singular values, (..., k), decreasing, in the unit of A's entries, float32.
        Vt: Right singular vectors, (..., k, n), orthonormal rows, float32.
    """

    U: NDArray[np.float32]
    s: NDArray[np.float32]
    Vt: NDArray[np.float32]


def truncated_svd(
    a: SupportsDLPack,
    rank: int,
    *,
    oversampling: int = 8,
    power_iterations: int | None = None,
    seed: int = 0,
    threads: int | None = None,
) -> TruncatedSVD:
    """Find the best approximation of rank k, A ≈ U diag(s) Vt.

    Randomized subspace iteration, orthonormalised at each half step (Halko, Martinsson, Tropp
    2011, arXiv 0909.4061, algorithms 4.4 and 5.1): Q = orth(A Ω), then Z = orth(Aᵀ Q) and
    Q = orth(A Z) in turn, and the exact SVD of the small matrix that is left. The sketch Ω is
    min(m, n) wide at most, else rank + oversampling rounded up to a multiple of 16; a matrix that
    it would span, and one of at most 64 × 64 entries, gets a full SVD, where seed, oversampling
    and power_iterations play no part.

    ‖A - U diag(s) Vt‖_F is within 0.1 % of the smallest that rank k allows (Eckart–Young), up to
    the rounding of float32, unless ``power_iterations`` says to stop earlier. Memory beside the
    result: the sketch, (m + n)(rank + oversampling) floats, for each matrix in work.

    Args:
        a: (..., m, n); leading dimensions are a batch.
        rank: k, 1 to min(m, n).
        oversampling: Columns of the sketch beyond the rank, 0 or more.
        power_iterations: Applications of A Aᵀ after the first A Ω; None iterates until the energy
            that more of them would add is negligible beside the energy left out.
        seed: Of the sketch, 0 to 2⁶⁴ - 1; matrix i of a batch uses seed + i, modulo 2⁶⁴.
        threads: To work with; None takes one per core. The result does not depend on it.

    Returns:
        U (..., m, k), s (..., k) and Vt (..., k, n), float32.

    Raises:
        UsageError: An argument out of range, or ``a`` is no real floating-point array on the CPU.
        NonFiniteError: NaN or Inf in ``a``, or singular values beyond the range of float32.

    Examples:
        >>> import numpy as np
        >>> from loragraft.linalg import truncated_svd
        >>> a = np.outer([3.0, 4.0], [0.0, 0.0, 1.0])
        >>> svd = truncated_svd(a, 1)
        >>> svd.U.shape, svd.s.shape, svd.Vt.shape
        ((2, 1), (1,), (1, 3))
        >>> [round(float(x), 4) for x in svd.U[:, 0]], round(float(svd.s[0]), 4)
        ([0.6, 0.8], 5.0)
    """
    array = matrices(a, "a")
    batch, (m, n) = array.shape[:-2], array.shape[-2:]
    k = whole_number(rank, "rank", 1, min(m, n))
    # Wider than the matrix is the full SVD, however much wider.
    extra = min(whole_number(oversampling, "oversampling", 0, _MOST_KEYS), m, n)
    if power_iterations is not None:
        power_iterations = whole_number(power_iterations, "power_iterations", 0, _MOST_ITERATIONS)
    key = whole_number(seed, "seed", 0, _MOST_KEYS - 1)
    u, s, vt = native.truncated_svd(
        stacked(array, batch), k, extra, power_iterations, key, native.resolve_threads(threads)
    )
    if not np.isfinite(s).all():
        raise NonFiniteError(
            "a: its singular values are beyond the range of float32: scale the array"
        )
    return TruncatedSVD(
        U=u.reshape(*batch, m, k), s=s.reshape(*batch, k), Vt=vt.reshape(*batch, k, n)
    )

"""The leading singular subspaces of one weight."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Subspace(NamedTuple):
    """The leading singular vectors of a weight, W ≈ U diag(s) Vᵀ.

    The entry of each column of U that is largest by magnitude is positive, and V follows: the sign
    convention that makes results repeatable. It gives the signs no meaning.

    Attributes:
        U: Basis of the output side, (m, k), orthonormal columns, float32.
        s: Singular values, (k,), decreasing, float32.
        V: Basis of the input side, (n, k), orthonormal columns, float32.
        norm: ‖W‖ (Frobenius), summed in float64.
    """

    U: NDArray[np.float32]
    s: NDArray[np.float32]
    V: NDArray[np.float32]
    norm: float

    @property
    def rank(self) -> int:
        """Number of dimensions k."""
        return int(self.U.shape[1])

    def leading(self, rank: int) -> Subspace:
        """Return the subspaces of the first ``rank`` singular vectors."""
        return Subspace(self.U[:, :rank], self.s[:rank], self.V[:, :rank], self.norm)

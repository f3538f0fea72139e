"""Updates of weights as products of two thin factors, which are never multiplied out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from loragraft.transferring.maps import Term


class Update(NamedTuple):
    """ΔW = B A.

    Attributes:
        B: (m, r), float64, the scaling included.
        A: (r, n), float64.
    """

    B: NDArray[np.float64]
    A: NDArray[np.float64]

    @property
    def rank(self) -> int:
        """Columns of B."""
        return int(self.B.shape[1])

    @property
    def norm(self) -> float:
        """‖B A‖ (Frobenius): of the small matrix between two orthonormal ones."""
        return float(np.linalg.norm(_triangle(self.B) @ _triangle(self.A.T).T))

    def times(self, factor: float) -> Update:
        """Return the update times a number."""
        return Update(self.B * factor, self.A)


class Balanced(NamedTuple):
    """An update of at most a given rank, with factors of equal weight.

    Attributes:
        update: B = U√S, A = √S Vᵀ of the leading singular triplets.
        lost: Share of the squared norm that the rank has cut off.
    """

    update: Update
    lost: float


def mapped(update: Update, terms: Sequence[Term]) -> Update:
    """Return Σ P ΔW Qᵀ with its factors side by side, B_t = [P₁B P₂B …], A_t stacked alike."""
    return Update(
        np.concatenate([term.outputs(update.B) for term in terms], axis=1),
        np.concatenate([term.inputs(update.A.T).T for term in terms], axis=0),
    )


def balanced(update: Update, rank: int) -> Balanced:
    """Refactor an update by QR of B and Aᵀ and the SVD of the small matrix between them.

    Args:
        update: The update.
        rank: Most triplets to keep.
    """
    left, upper = np.linalg.qr(update.B)
    right, lower = np.linalg.qr(update.A.T)
    u, s, vt = np.linalg.svd(upper @ lower.T)
    kept = min(rank, s.size)
    total = math.fsum(s * s)
    lost = math.fsum(s[kept:] ** 2) / total if total > 0.0 else 0.0
    root = np.sqrt(s[:kept])
    return Balanced(
        Update((left @ u[:, :kept]) * root, root[:, None] * (vt[:kept] @ right.T)), lost
    )


def _triangle(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.linalg.qr(columns, mode="r"))

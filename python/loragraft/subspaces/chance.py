"""How alike two subspaces are, against what two random ones would be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from loragraft.linalg import chance_similarity, subspace_similarity

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Standard deviations above the mean of random subspaces that are no accident.
_SIGMAS: Final = 5.0
#: Excess below which an overlap may be significant, and still is next to nothing.
_CLEAR: Final = 0.1


@dataclass(frozen=True, slots=True)
class Overlap:
    """The similarity of two subspaces of dimensions p and q in one space of m dimensions.

    Attributes:
        similarity: Φ = ‖U₁ᵀU₂‖²_F / min(p, q), from 0 to 1 (LoRA-X, arXiv 2501.16559, section 4);
            None where it is not defined.
        chance: Its mean for random subspaces, max(p, q) / m.
        excess: κ = (Φ − chance) / (1 − chance): 0 at chance, 1 for the same subspace.
        z: Standard deviations of random subspaces above their mean.
        why: Why it is not defined; empty where it is.
    """

    similarity: float | None
    chance: float | None = None
    excess: float | None = None
    z: float | None = None
    why: str = ""

    @property
    def is_clear(self) -> bool:
        """Whether it is above chance beyond doubt and by an amount that matters."""
        return (
            self.excess is not None
            and self.z is not None
            and self.excess >= _CLEAR
            and self.z >= _SIGMAS
        )


def overlap_of(first: NDArray[np.float32], second: NDArray[np.float32]) -> Overlap:
    """Compare two subspaces, given as orthonormal columns.

    Args:
        first: (m, p).
        second: (m', q); nothing is defined where m' is not m, for no map between the spaces is
            known.
    """
    (rows, p), (others, q) = first.shape, second.shape
    if rows != others:
        return Overlap(None, why=f"undefined between widths {rows} and {others} without a map")
    chance = chance_similarity(rows, p, q)
    similarity = float(subspace_similarity(first, second))
    if chance == 1.0:
        return Overlap(
            similarity, chance, why=f"the subspaces of dimension {max(p, q)} are the whole space"
        )
    excess = (similarity - chance) / (1.0 - chance)
    return Overlap(similarity, chance, excess, (similarity - chance) / deviation(rows, p, q))


def deviation(m: int, p: int, q: int) -> float:
    """Return the standard deviation of the similarity of random subspaces.

    T = tr(P₁P₂) of projections on uniformly drawn subspaces has the mean pq/m and the variance
    2 pq (m−p)(m−q) / (m² (m−1)(m+2)): the second moments of the Haar measure on the orthogonal
    group; for p = q = 1 the variance of the squared cosine, a Beta(1/2, (m−1)/2) variable.

    Args:
        m: Dimension of the space, at least 2.
        p: Dimension of one subspace, below m.
        q: Dimension of the other, below m.
    """
    variance = 2.0 * p * q * (m - p) * (m - q) / (float(m) ** 2 * (m - 1) * (m + 2))
    return math.sqrt(variance) / min(p, q)


def mean_excess(*overlaps: Overlap) -> float | None:
    """Return the mean excess of those that have one, None where none has."""
    found = [overlap.excess for overlap in overlaps if overlap.excess is not None]
    return math.fsum(found) / len(found) if found else None

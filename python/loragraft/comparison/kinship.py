"""What two weights have in common: subspaces against chance, and entries where shapes are equal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from loragraft.subspaces.chance import mean_excess, overlap_of
from loragraft.subspaces.likeness import Likeness, likeness_of

if TYPE_CHECKING:
    from loragraft.architecture import LinearModule
    from loragraft.subspaces.chance import Overlap
    from loragraft.subspaces.finder import SubspaceFinder
    from loragraft.subspaces.subspace import Subspace
    from loragraft.tensor_reader import TensorReader

#: Cosine between two weights that no accident explains, where no subspace can tell.
_COSINE: Final = 0.1


class Kinship(NamedTuple):
    """Two weights, the first W_s and the second W_t.

    Attributes:
        first: Subspaces of the first, of the same dimension as the second's.
        second: Subspaces of the second.
        left: Overlap of their output spaces.
        right: Overlap of their input spaces.
        likeness: Their entries compared; nothing where the shapes differ.
    """

    first: Subspace
    second: Subspace
    left: Overlap
    right: Overlap
    likeness: Likeness

    @property
    def excess(self) -> float | None:
        """Mean excess of both sides over chance, None where it is defined on neither."""
        return mean_excess(self.left, self.right)

    @property
    def is_clear(self) -> bool:
        """Whether similarity is clearly above chance on every side where it is defined.

        Where it is defined on none, because the subspaces are the whole spaces, the cosine between
        the weights decides: 0 ± 1/√(mn) for unrelated ones.
        """
        defined = [side for side in (self.left, self.right) if side.excess is not None]
        if defined:
            return all(side.is_clear for side in defined)
        return self.likeness.cosine is not None and self.likeness.cosine >= _COSINE


def kinship_of(
    finder: SubspaceFinder, reader: TensorReader, first: LinearModule, second: LinearModule
) -> Kinship:
    """Compare two weights.

    Raises:
        NonFiniteError: NaN or Inf in one of them.
        FormatError: A file cannot be read.
    """
    own, other = finder.both(first, second)
    rank = min(own.rank, other.rank)
    own, other = own.leading(rank), other.leading(rank)
    likeness = Likeness(None, None)
    if first.shape == second.shape:
        likeness = likeness_of(reader, first, second)
    return Kinship(own, other, overlap_of(own.U, other.U), overlap_of(own.V, other.V), likeness)

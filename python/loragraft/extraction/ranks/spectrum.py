"""What the factorisation of ΔW found, as rank rules and the verdict see it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


class Spectrum(NamedTuple):
    """One adapter parameter: a matrix, or all experts of a block, which share one rank.

    Every sequence has an entry for each matrix. A matrix that is equal on both sides has empty
    lists and zeros.

    Attributes:
        singular_values: The leading ones, decreasing.
        delta_squares: ‖ΔW‖² (Frobenius).
        rounding_squares: Expected squared norm of the rounding that the stored weights imply.
        optimal_squares: ‖ΔW − UₖSₖVₖᵀ‖² for k = 1, 2, …: what the leading triplets leave out. The
            last ones will do: each triplet fewer leaves out its s² more.
        residual_squares: ‖ΔW − scaling·B·A‖² with factors of rank 1, 2, … as they are written,
            likewise.
        shape: ``(out, in)`` of one matrix.
        name: Of the module, for messages.
        group: Of modules that are alike, such as ``q_proj``.
        further: Some singular values that follow these, at most the true ones: enough to see a
            step after the last, but not for ranks of their own.
    """

    singular_values: Sequence[Sequence[float]]
    delta_squares: Sequence[float]
    rounding_squares: Sequence[float]
    optimal_squares: Sequence[Sequence[float]]
    residual_squares: Sequence[Sequence[float]]
    shape: tuple[int, int]
    name: str = ""
    group: str = ""
    further: tuple[tuple[float, ...], ...] = ()

    @property
    def available(self) -> int:
        """Largest rank that can be written."""
        return max(map(len, self.singular_values), default=0)

    @property
    def delta_square(self) -> float:
        """‖ΔW‖² of all matrices together."""
        return math.fsum(self.delta_squares)

    @property
    def rounding_square(self) -> float:
        """Expected squared norm of the rounding of all matrices that differ."""
        return math.fsum(
            rounding
            for rounding, delta in zip(self.rounding_squares, self.delta_squares, strict=True)
            if delta > 0.0
        )

    @property
    def parameters_per_rank(self) -> int:
        """Numbers in the adapter for each rank: a row of A and a column of B for every matrix."""
        return sum(self.shape) * len(self.delta_squares)

    @property
    def optimum(self) -> list[float]:
        """Squared norm left out by the leading k triplets, for k = 0, 1, … `available`."""
        return self._summed(self.optimal_squares)

    def optimum_of(self, matrix: int) -> list[float]:
        """The same for one of the matrices."""
        return _complete(
            self.optimal_squares[matrix], self.singular_values[matrix], self.delta_squares[matrix]
        )

    @property
    def residual(self) -> list[float]:
        """Squared norm left out by factors of rank 0, 1, … `available`, as written."""
        return self._summed(self.residual_squares)

    @property
    def gains(self) -> list[float]:
        """Summed squares of the first, second, … singular values of all matrices."""
        return [
            math.fsum(values[k] ** 2 for values in self.singular_values if k < len(values))
            for k in range(self.available)
        ]

    def _summed(self, squares: Sequence[Sequence[float]]) -> list[float]:
        """Add up what ranks leave out; a matrix without further triplets leaves out no less."""
        complete = list(map(_complete, squares, self.singular_values, self.delta_squares))
        return [
            math.fsum(of[min(k, len(of) - 1)] for of in complete) for k in range(self.available + 1)
        ]


def _complete(squares: Sequence[float], values: Sequence[float], delta: float) -> list[float]:
    """Return what rank 0, 1, 2, … of a matrix leaves out, from what the last ranks leave out."""
    if not values:
        return [delta]
    found = list(reversed(squares))
    if not found:
        found.append(max(0.0, delta - math.fsum(value * value for value in values)))
    for k in range(len(values) - len(found), 0, -1):
        found.append(found[-1] + values[k] ** 2)
    return [delta, *reversed(found)]

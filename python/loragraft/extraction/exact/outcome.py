"""What the search inside the rounding cells gave for one module."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loragraft.extraction.factors import SpooledFactors

#: Factors fit with no more than this share of the weights outside their cells, or a single one:
#: single precision leaves a few at the very ends.
FITS: Final = 5e-5
#: With no more than this they are nearer to the merged adapter than those of the plain SVD.
NEAR: Final = 0.05
#: Changed weights for each degree of freedom from which on a smaller rank would not fit by chance
#: (benchmarks/NOTES.md).
TELLING: Final = 4.0


class Status(StrEnum):
    """Which factors a module is written with."""

    EXACT = "exact"
    NEAR = "near"
    PLAIN = "plain"


class Found(NamedTuple):
    """The outcome of one search in one matrix.

    Attributes:
        rank: Of the factors.
        dtype: Of the factors as written.
        end: ``feasible``, ``stalled`` or ``rounds``.
        outside: Weights outside their cells, before the cast.
        exact: Weights that come out bit for bit, with the factors as written.
        changed: Weights that the base alone does not give bit for bit.
        rounds: Steps tried, each an evaluation of all weights.
        residual_square: ‖ΔW − scaling·B·A‖² with the factors as written.
        seconds: Worker time.
    """

    rank: int
    dtype: str
    end: str
    outside: int
    exact: int
    changed: int
    rounds: int
    residual_square: float
    seconds: float


class ModuleRecovery(NamedTuple):
    """What became of one module, all its matrices together.

    Attributes:
        status: Which factors it is written with.
        why: Why it is written with plain ones; empty otherwise.
        rank: Of the factors.
        slack: Share of |ΔW| by which its cells were widened.
        weights: How many there are.
        exact: How many come out bit for bit, with the factors as written; not known of plain ones.
        outside: How many lie outside their cells, before the cast.
        changed: How many the base alone does not give.
        freedom: Degrees of freedom of matrices of this rank.
        rounds: Of all searches at this rank.
        residual_square: ‖ΔW − scaling·B·A‖².
        seconds: Worker time.
        factors: Where they lie, by matrix.
    """

    status: Status
    why: str = ""
    rank: int = 0
    slack: float = 0.0
    weights: int = 0
    exact: int = 0
    outside: int = 0
    changed: int = 0
    freedom: int = 0
    rounds: int = 0
    residual_square: float = 0.0
    seconds: float = 0.0
    factors: Mapping[int, SpooledFactors] = {}

    @property
    def dtypes(self) -> set[str]:
        """Formats of the factors as written."""
        return {place.dtype for place in self.factors.values()}

    @property
    def share(self) -> float | None:
        """Share of weights that come out bit for bit, None where it is not known."""
        return self.exact / self.weights if self.weights else None

    @property
    def fits(self) -> bool:
        """Whether the weights lie in their cells."""
        return self.status is Status.EXACT

    @property
    def telling(self) -> bool:
        """Whether so many weights changed that a rank which fits does not do so by chance."""
        return self.changed >= TELLING * self.freedom

    def judged(self, *, complete: bool) -> ModuleRecovery:
        """Return the same with the status that it deserves.

        Args:
            complete: The factors of all matrices were kept.
        """
        share = self.outside / self.weights
        if self.outside <= max(1.0, FITS * self.weights):
            return self._replace(status=Status.EXACT)
        if share <= NEAR and complete:
            return self._replace(status=Status.NEAR)
        why = f"no factors of rank {self.rank} give its weights: {share:.0%} lie outside"
        return ModuleRecovery(Status.PLAIN, why, self.rank, changed=self.changed)

    def to_json(self) -> dict[str, Any]:
        """Return what a report tells of the module."""
        data: dict[str, Any] = {"status": self.status.value}
        if self.status is Status.PLAIN:
            return {**data, "why": self.why}
        return {
            **data,
            "outside": self.outside,
            "changed": self.changed,
            "rounds": self.rounds,
            "slack": self.slack,
            "rank_known": self.telling,
        }

"""What the kernels found, matrix by matrix."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from loragraft.report.model import Outcome, TensorReport

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from loragraft import native
    from loragraft.alignment import TensorPair
    from loragraft.extraction.plan import ExtractionPlan, ModulePlan

#: A tensor left out whose change exceeds this share of its norm deserves a warning.
LARGE_CHANGE: Final = 0.01
_EQUAL: Final = "equal on both sides"


class Measurement(NamedTuple):
    """The figures of one native result, without its factors; squares of Frobenius norms.

    Attributes:
        unchanged: Both sides are equal.
        rank: Triplets computed.
        dtype: Of the factors.
        delta_square: ‖ΔW‖².
        base_square: ‖W_base‖².
        rounding_square: Expected squared norm of the rounding of W_tuned.
        optimal_squares: Of the best approximation's error, at every rank from 1 on; only at the
            last where nobody asked for more.
        residual_squares: Of the written factors' error, likewise.
        singular_values: The leading ones.
        further_values: Some that follow, at most the true ones.
        seconds: Worker time.
    """

    unchanged: bool
    rank: int
    dtype: str
    delta_square: float
    base_square: float
    rounding_square: float
    optimal_squares: Sequence[float]
    residual_squares: Sequence[float]
    singular_values: Sequence[float]
    further_values: Sequence[float]
    seconds: float

    @classmethod
    def of(cls, result: native.ModuleResult) -> Measurement:
        """Copy the figures."""
        return cls(
            unchanged=result.unchanged,
            rank=result.rank,
            dtype=result.dtype,
            delta_square=result.delta_square,
            base_square=result.base_square,
            rounding_square=result.rounding_square,
            optimal_squares=array("d", result.optimal_squares or [result.optimal_square]),
            residual_squares=array("d", result.residual_squares or [result.residual_square]),
            singular_values=array("d", result.singular_values),
            further_values=array("d", result.further_values),
            seconds=result.seconds,
        )

    def at(self, rank: int) -> tuple[float, float]:
        """Return the squared errors (of the optimum, of the written factors) at a rank.

        A matrix that has fewer triplets gives what it has; of rank 0 nothing is kept.
        """
        if rank == 0 or self.rank == 0:
            return self.delta_square, self.delta_square
        place = min(rank, self.rank) - self.rank - 1
        return self.optimal_squares[place], self.residual_squares[place]


class _Touch(NamedTuple):
    """One matrix that a tensor holds, or holds a part of."""

    found: Measurement
    rank: int
    why: str


@dataclass(slots=True)
class Findings:
    """Collects results in any order.

    Attributes:
        plan: What was to be done.
        measurements: Figures by unit and matrix.
        equal: Names of opaque tensors that store the same bytes on both sides.
        bytes_read: Bytes of tensor data compared so far.
    """

    plan: ExtractionPlan
    measurements: dict[tuple[int, int], Measurement] = field(default_factory=dict)
    equal: set[str] = field(default_factory=set)
    bytes_read: int = 0
    _shares: list[float] = field(default_factory=list)

    def add(self, unit: int, matrix: int, found: Measurement) -> None:
        """Take the figures of one matrix."""
        self.measurements[unit, matrix] = found
        if not self._shares:
            self._shares = [u.nbytes / len(u.base) for u in self.plan.units]
        self.bytes_read += round(self._shares[unit])

    def add_opaque(self, pair: TensorPair, *, equal: bool) -> None:
        """Take the comparison of one tensor that is not computed with."""
        if equal:
            self.equal.add(pair.name)
        self.bytes_read += pair.nbytes

    def of_module(self, number: int) -> tuple[Measurement, ...]:
        """Return the figures of one module's matrices."""
        matrices = len(self.plan.modules[number].unit.base)
        return tuple(self.measurements[number, i] for i in range(matrices))

    def changed(self) -> Iterator[tuple[int, ModulePlan]]:
        """Yield the modules that differ, with their numbers."""
        for number, module in enumerate(self.plan.modules):
            if any(found.rank for found in self.of_module(number)):
                yield number, module

    def tensors(self, ranks: Sequence[int]) -> tuple[TensorReport, ...]:
        """Return a row for every tensor of both checkpoints.

        Args:
            ranks: The rank that every module of the plan was given.
        """
        rows = {
            name: self._compared(name, touches) for name, touches in self._touched(ranks).items()
        }
        for pair, why in self.plan.untouched:
            if pair.name in self.equal:
                rows[pair.name] = self._row(pair.name, Outcome.UNCHANGED, _EQUAL, 0.0)
            else:
                rows[pair.name] = self._row(pair.name, Outcome.LEFT_OUT, why, None)
        order = [*self.plan.base.tensors, *self.plan.tuned.tensors]
        return tuple(rows[name] for name in dict.fromkeys(order))

    def _touched(self, ranks: Sequence[int]) -> dict[str, list[_Touch]]:
        """Return what was found of every tensor: one may hold many matrices, or a part of one."""
        touched: dict[str, list[_Touch]] = {}
        modules = len(self.plan.modules)
        for number, unit in enumerate(self.plan.units):
            rank = ranks[number] if number < modules else 0
            why = "" if number < modules else self.plan.measured[number - modules][1]
            for i, sides in enumerate(zip(unit.base, unit.tuned, strict=True)):
                touch = _Touch(self.measurements[number, i], rank, why)
                for name in {entry.name for side in sides for entry in side.entries}:
                    touched.setdefault(name, []).append(touch)
        return touched

    def _compared(self, name: str, touches: Sequence[_Touch]) -> TensorReport:
        found = [touch.found for touch in touches]
        if all(one.unchanged for one in found):
            return self._row(name, Outcome.UNCHANGED, _EQUAL, 0.0)
        change = ratio(
            math.fsum(one.delta_square for one in found),
            math.fsum(one.base_square for one in found),
        )
        if any(touch.rank and touch.found.rank for touch in touches):
            return self._row(name, Outcome.ADAPTED, "", change)
        why = next((touch.why for touch in touches if touch.why), "the rank rule kept nothing")
        return self._row(name, Outcome.LEFT_OUT, why, change)

    def _row(
        self, name: str, outcome: Outcome, why: str, relative_change: float | None
    ) -> TensorReport:
        base, tuned = self.plan.base.tensors.get(name), self.plan.tuned.tensors.get(name)
        present = base or tuned
        assert present is not None
        return TensorReport(
            name=name,
            shape=present.shape,
            dtype_base=None if base is None else base.dtype,
            dtype_tuned=None if tuned is None else tuned.dtype,
            outcome=outcome,
            why=why,
            relative_change=relative_change,
        )


def ratio(square: float, of_square: float) -> float | None:
    """Return √(square / of_square), None where the second is zero; neither may be NaN."""
    if math.isnan(square) or math.isnan(of_square):
        raise ValueError(f"a squared norm is NaN: {square}, {of_square}")
    return math.sqrt(max(0.0, square) / of_square) if of_square > 0.0 else None

"""What the kernels found, turned into the rows of a report."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from loragraft.report.model import ModuleReport, Outcome, TensorReport

if TYPE_CHECKING:
    from loragraft import native
    from loragraft.alignment import TensorPair
    from loragraft.extraction.plan import ExtractionPlan, ModulePlan

#: A tensor left out whose change exceeds this share of its norm deserves a warning.
LARGE_CHANGE: Final = 0.01
_EQUAL: Final = "equal on both sides"


class Measurement(NamedTuple):
    """The figures of one native result, without its factors; squares of Frobenius norms."""

    unchanged: bool
    rank: int
    dtype: str
    delta_square: float
    base_square: float
    rounding_square: float
    optimal_square: float
    residual_square: float
    singular_values: tuple[float, ...]
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
            optimal_square=result.optimal_square,
            residual_square=result.residual_square,
            singular_values=tuple(result.singular_values),
            seconds=result.seconds,
        )


@dataclass(slots=True)
class Findings:
    """Collects results in any order and gives reports in the plan's order.

    Attributes:
        plan: What was to be done.
        measurements: Figures of finished tensors by name.
        equal: Names of opaque tensors that store the same bytes on both sides.
        bytes_read: Bytes of tensor data compared so far.
    """

    plan: ExtractionPlan
    measurements: dict[str, Measurement] = field(default_factory=dict)
    equal: set[str] = field(default_factory=set)
    bytes_read: int = 0

    def add(self, pair: TensorPair, result: native.ModuleResult) -> None:
        """Take one result."""
        self.measurements[pair.name] = Measurement.of(result)
        self.bytes_read += pair.nbytes

    def add_opaque(self, pair: TensorPair, *, equal: bool) -> None:
        """Take the comparison of one tensor that is not computed with."""
        if equal:
            self.equal.add(pair.name)
        self.bytes_read += pair.nbytes

    def modules(self) -> tuple[ModuleReport, ...]:
        """Return a row for every adapted module."""
        return tuple(
            module_report(module, self.measurements[module.pair.name], self.plan.options.scaling)
            for module in self.plan.modules
            if self.measurements[module.pair.name].rank
        )

    def tensors(self) -> tuple[TensorReport, ...]:
        """Return a row for every tensor of both checkpoints."""
        rows = {}
        for module in self.plan.modules:
            rows[module.pair.name] = self._compared(module.pair, "")
        for pair, why in self.plan.measured:
            rows[pair.name] = self._compared(pair, why)
        for pair, why in self.plan.untouched:
            if pair.name in self.equal:
                rows[pair.name] = _row(pair, Outcome.UNCHANGED, _EQUAL, 0.0)
            else:
                rows[pair.name] = _row(pair, Outcome.LEFT_OUT, why, None)
        order = [*self.plan.base.tensors, *self.plan.tuned.tensors]
        return tuple(rows[name] for name in dict.fromkeys(order))

    def _compared(self, pair: TensorPair, why: str) -> TensorReport:
        found = self.measurements[pair.name]
        if found.unchanged:
            return _row(pair, Outcome.UNCHANGED, _EQUAL, 0.0)
        change = ratio(found.delta_square, found.base_square)
        if found.rank:
            return _row(pair, Outcome.ADAPTED, "", change)
        return _row(pair, Outcome.LEFT_OUT, why or "the rank rule kept nothing", change)


def module_report(module: ModulePlan, found: Measurement, scaling: float) -> ModuleReport:
    """Return the row of one adapted module."""
    linear = module.linear
    error = ratio(found.residual_square, found.delta_square) or 0.0
    return ModuleReport(
        name=linear.name,
        kind=linear.kind,
        layer=linear.layer,
        shape=linear.shape,
        rank=found.rank,
        alpha=scaling * found.rank,
        delta_norm=math.sqrt(found.delta_square),
        weight_norm=math.sqrt(found.base_square),
        energy=1.0 - error * error,
        relative_error=error,
        optimal_error=ratio(found.optimal_square, found.delta_square),
        rounding_floor=ratio(found.rounding_square, found.delta_square),
        singular_values=found.singular_values,
        dtype=found.dtype,
        seconds=found.seconds,
    )


def ratio(square: float, of_square: float) -> float | None:
    """Return √(square / of_square), None where the second is zero; neither may be NaN."""
    if math.isnan(square) or math.isnan(of_square):
        raise ValueError(f"a squared norm is NaN: {square}, {of_square}")
    return math.sqrt(max(0.0, square) / of_square) if of_square > 0.0 else None


def _row(
    pair: TensorPair, outcome: Outcome, why: str, relative_change: float | None
) -> TensorReport:
    present = pair.base or pair.tuned
    assert present is not None
    return TensorReport(
        name=pair.name,
        shape=present.shape,
        dtype_base=None if pair.base is None else pair.base.dtype,
        dtype_tuned=None if pair.tuned is None else pair.tuned.dtype,
        outcome=outcome,
        why=why,
        relative_change=relative_change,
    )

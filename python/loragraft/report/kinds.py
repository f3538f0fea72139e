"""The figures of a report gathered by kind of module, as tables and model cards show them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

from loragraft.report.model import Outcome, total_energy

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from loragraft.report.model import ModuleReport, TensorReport

#: The kind of all modules together.
ALL: Final = "all"
#: Optimal errors below this are rounding noise, and a ratio to them says nothing.
_NOISE: Final = 1e-6


class KindFigures(NamedTuple):
    """All modules of one kind, or of a whole report.

    Attributes:
        kind: Such as ``q_proj``.
        modules: How many there are.
        experts: How many experts each of them is of, at most; 0 for layers of their own.
        ranks: Smallest and largest rank.
        energy: Share of the kind's summed ‖ΔW‖² that the adapter keeps.
        lowest_energy: The lowest of any one module.
        error: Relative error of the kind as a whole, weighted by ‖ΔW‖².
        over_optimum: Largest relative_error / optimal_error of a module; None where no optimum
            was measured, or every one is too small to divide by.
        bit_exact: Share of weights reproduced bit for bit; None if a module lacks the figure.
        seconds: Worker time.
    """

    kind: str
    modules: int
    experts: int
    ranks: tuple[int, int]
    energy: float
    lowest_energy: float
    error: float
    over_optimum: float | None
    bit_exact: float | None
    seconds: float


class LeftOutFigures(NamedTuple):
    """All tensors left out for one reason.

    Attributes:
        why: The reason.
        tensors: How many there are.
        largest_change: Largest relative change of any, None where none can be stated.
    """

    why: str
    tensors: int
    largest_change: float | None


def by_kind(modules: Iterable[ModuleReport]) -> tuple[KindFigures, ...]:
    """Gather modules by kind, in the order in which the kinds first appear."""
    groups: dict[str, list[ModuleReport]] = {}
    for module in modules:
        groups.setdefault(module.kind, []).append(module)
    return tuple(gather(kind, group) for kind, group in groups.items())


def gather(kind: str, modules: Sequence[ModuleReport]) -> KindFigures:
    """Gather modules, at least one, into one line."""
    energy, error = total_energy(tuple(modules))
    return KindFigures(
        kind=kind,
        modules=len(modules),
        experts=max(module.experts for module in modules) if kind != ALL else 0,
        ranks=(min(module.rank for module in modules), max(module.rank for module in modules)),
        energy=energy,
        lowest_energy=min(module.energy for module in modules),
        error=error,
        over_optimum=_over_optimum(modules),
        bit_exact=_bit_exact(modules),
        seconds=math.fsum(module.seconds for module in modules),
    )


def _over_optimum(modules: Sequence[ModuleReport]) -> float | None:
    return max(
        (
            module.relative_error / module.optimal_error
            for module in modules
            if module.optimal_error is not None and module.optimal_error > _NOISE
        ),
        default=None,
    )


def _bit_exact(modules: Sequence[ModuleReport]) -> float | None:
    exact = 0.0
    for module in modules:
        if module.bit_exact is None:
            return None
        exact += module.bit_exact * math.prod(module.shape)
    return exact / sum(math.prod(module.shape) for module in modules)


def left_out(tensors: Iterable[TensorReport]) -> tuple[LeftOutFigures, ...]:
    """Gather the tensors left out by reason, in the order in which the reasons first appear."""
    groups: dict[str, list[float | None]] = {}
    for tensor in tensors:
        if tensor.outcome is Outcome.LEFT_OUT:
            groups.setdefault(tensor.why, []).append(tensor.relative_change)
    return tuple(
        LeftOutFigures(
            why,
            len(changes),
            max((change for change in changes if change is not None), default=None),
        )
        for why, changes in groups.items()
    )

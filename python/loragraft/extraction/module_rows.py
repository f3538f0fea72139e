"""The rows of a report that tell of adapted modules."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from loragraft.extraction.findings import ratio
from loragraft.report.model import ModuleReport

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loragraft.extraction.findings import Findings, Measurement
    from loragraft.extraction.plan import ModulePlan


def module_rows(findings: Findings, ranks: Sequence[int]) -> tuple[ModuleReport, ...]:
    """Return a row for every adapted module, in the plan's order.

    Args:
        findings: What the kernels found.
        ranks: The rank that every module of the plan was given.
    """
    scaling = findings.plan.options.scaling
    return tuple(
        module_row(module, findings.of_module(number), ranks[number], scaling)
        for number, module in findings.changed()
        if ranks[number]
    )


def module_row(
    module: ModulePlan, found: Sequence[Measurement], rank: int, scaling: float
) -> ModuleReport:
    """Return the row of one adapted module: of all its experts together where it has several."""
    linear = module.linear
    delta = math.fsum(one.delta_square for one in found)
    errors = [one.at(rank) for one in found]
    error = ratio(math.fsum(residual for _, residual in errors), delta) or 0.0
    return ModuleReport(
        name=linear.name,
        kind=linear.kind,
        layer=linear.layer,
        shape=linear.shape,
        experts=linear.experts,
        rank=rank,
        alpha=scaling * rank,
        delta_norm=math.sqrt(delta),
        weight_norm=math.sqrt(math.fsum(one.base_square for one in found)),
        energy=1.0 - error * error,
        relative_error=error,
        optimal_error=ratio(math.fsum(optimum for optimum, _ in errors), delta),
        rounding_floor=ratio(math.fsum(one.rounding_square for one in found), delta),
        singular_values=_pooled([one.singular_values for one in found]),
        dtype=_widest({one.dtype for one in found if one.rank}),
        seconds=math.fsum(one.seconds for one in found),
    )


def _pooled(spectra: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Return for each place the root of the summed squares: their energies add up."""
    if len(spectra) == 1:
        return tuple(spectra[0])
    most = max(map(len, spectra))
    return tuple(
        math.sqrt(math.fsum(values[k] ** 2 for values in spectra if k < len(values)))
        for k in range(most)
    )


def _widest(dtypes: set[str]) -> str:
    """Return the one format that holds them all exactly."""
    return dtypes.pop() if len(dtypes) == 1 else "F32"

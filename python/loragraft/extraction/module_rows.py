"""The rows of a report that tell of adapted modules."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from loragraft.extraction.findings import ratio
from loragraft.report.model import ModuleReport

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loragraft.extraction.choice import Choice, Written
    from loragraft.extraction.exact.outcome import ModuleRecovery
    from loragraft.extraction.findings import Findings, Measurement


def module_rows(findings: Findings, choice: Choice) -> tuple[ModuleReport, ...]:
    """Return a row for every adapted module, in the plan's order.

    Args:
        findings: What the kernels found.
        choice: The ranks that were written.
    """
    scaling = findings.plan.options.scaling
    return tuple(
        module_row(one, findings.of_module(one.number), scaling, choice.recovered.get(one.number))
        for one in choice.written(findings.plan)
        if one.kept and any(found.rank for found in findings.of_module(one.number))
    )


def module_row(
    one: Written,
    found: Sequence[Measurement],
    scaling: float,
    recovered: ModuleRecovery | None = None,
) -> ModuleReport:
    """Return the row of one adapted module: of all its experts together where it has several.

    Args:
        one: As it is written.
        found: What the factorisation found of its matrices.
        scaling: alpha / rank.
        recovered: What exact recovery gave, where it was asked for.
    """
    linear = one.module.linear
    delta = math.fsum(each.delta_square for each in found)
    errors = [each.at(one.kept) for each in found]
    residual = math.fsum(residual for _, residual in errors)
    dtypes = {each.dtype for each in found if each.rank}
    if recovered is not None and recovered.factors:
        residual, dtypes = recovered.residual_square, recovered.dtypes
    error = ratio(residual, delta) or 0.0
    return ModuleReport(
        name=linear.name,
        kind=linear.kind,
        layer=linear.layer,
        shape=linear.shape,
        experts=linear.experts,
        rank=one.rank,
        alpha=scaling * one.rank,
        delta_norm=math.sqrt(delta),
        weight_norm=math.sqrt(math.fsum(each.base_square for each in found)),
        energy=1.0 - error * error,
        relative_error=error,
        optimal_error=ratio(math.fsum(optimum for optimum, _ in errors), delta),
        rounding_floor=ratio(math.fsum(each.rounding_square for each in found), delta),
        singular_values=_pooled([each.singular_values for each in found]),
        bit_exact=None if recovered is None else recovered.share,
        dtype=_widest(dtypes),
        seconds=math.fsum(each.seconds for each in found)
        + (recovered.seconds if recovered is not None else 0.0),
        recovery=None if recovered is None else recovered.to_json(),
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

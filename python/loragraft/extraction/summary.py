"""The report of a finished extraction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loragraft.extraction.verdict import verdict, warnings
from loragraft.report.model import Report, Summary, count_outcomes, total_energy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loragraft.extraction.findings import Findings
    from loragraft.extraction.plan import ExtractionPlan


def make_report(
    plan: ExtractionPlan,
    findings: Findings,
    *,
    differences: Sequence[str],
    bytes_written: int,
    seconds: float,
) -> Report:
    """Return the report of a run.

    Args:
        plan: What was done.
        findings: What was found.
        differences: Of the configurations and tokenizers.
        bytes_written: Size of the factors as stored.
        seconds: Wall time.
    """
    tensors, modules = findings.tensors(), findings.modules()
    energy, error = total_energy(modules)
    options = plan.options
    summary = Summary(
        verdict=verdict(modules, energy, error),
        counts=count_outcomes(tensors),
        bytes_read=findings.bytes_read,
        bytes_written=bytes_written,
        seconds=seconds,
        energy=energy,
        error=error,
        warnings=(
            *differences,
            *warnings(plan, tensors, modules),
        ),
    )
    inputs = {
        "base": plan.base.reference,
        "tuned": plan.tuned.reference,
        "rank": options.rank.most,
        "alpha": options.scaling * options.rank.most,
        "dtype": options.dtype,
        "target_modules": list(options.selection.target_modules),
        "exclude": list(options.selection.exclude),
        "layers": sorted(options.selection.layers) if options.selection.layers else None,
        "experts": options.selection.experts,
        "oversampling": options.oversampling,
        "power_iterations": options.power_iterations,
        "seed": options.seed,
    }
    return Report("extract", inputs, summary, tensors, modules)

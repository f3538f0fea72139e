"""Carries a plan out: every pair measured, every chosen layer factored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loragraft.extraction.findings import Findings
from loragraft.extraction.opaque import compare_opaque
from loragraft.extraction.work import Work

if TYPE_CHECKING:
    from collections.abc import Callable

    from loragraft import native
    from loragraft.extraction.plan import ExtractionPlan, ModulePlan

    #: Takes the factors of one module.
    Keep = Callable[[ModulePlan, native.ModuleResult], None]
    #: Told what is done, bytes done and bytes in all.
    Progress = Callable[[str, int, int], None]


def compute(plan: ExtractionPlan, keep: Keep, progress: Progress | None) -> Findings:
    """Measure and factor what the plan says.

    Args:
        plan: What to do.
        keep: Called with every adapted module and its result, in the order in which they finish.
        progress: Called from time to time.
    """
    findings = Findings(plan)
    modules = {module.pair.name: module for module in plan.modules}

    def tell() -> None:
        if progress is not None:
            progress("extract", findings.bytes_read, plan.bytes_to_read)

    with Work(plan) as work:
        for pair, result in work:
            if result.rank:
                keep(modules[pair.name], result)
            findings.add(pair, result)
            tell()
    for pair, equal in compare_opaque(plan):
        findings.add_opaque(pair, equal=equal)
        tell()
    return findings

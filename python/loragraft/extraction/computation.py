"""Takes in what the kernels find: every pair measured, every chosen layer factored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loragraft.errors import NothingToAdaptError
from loragraft.extraction.findings import Findings
from loragraft.extraction.opaque import compare_opaque
from loragraft.report.model import Outcome
from loragraft.wording import counted, shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from loragraft import native
    from loragraft.extraction.plan import ExtractionPlan, ModulePlan
    from loragraft.extraction.work import Work

    #: Takes the factors of one module.
    Keep = Callable[[ModulePlan, native.ModuleResult], None]
    #: Told what is done, bytes done and bytes in all.
    Progress = Callable[[str, int, int], None]


def compute(plan: ExtractionPlan, work: Work, keep: Keep, progress: Progress | None) -> Findings:
    """Wait for every result and collect it.

    Args:
        plan: What is to be done.
        work: The plan in the hands of the kernels.
        keep: Called with every adapted module and its result, in the order in which they finish.
        progress: Called after every tensor.

    Raises:
        NothingToAdaptError: No layer differs.
    """
    findings = Findings(plan)
    modules = {module.pair.name: module for module in plan.modules}
    total = plan.bytes_to_read

    def tell() -> None:
        if progress is not None:
            progress("extract", findings.bytes_read, total)

    adapted = 0
    for pair, result in work:
        if result.rank:
            keep(modules[pair.name], result)
            adapted += 1
        findings.add(pair, result)
        tell()
    for pair, equal in compare_opaque(plan):
        findings.add_opaque(pair, equal=equal)
        tell()
    if not adapted:
        raise _nothing(plan, findings)
    return findings


def _nothing(plan: ExtractionPlan, findings: Findings) -> NothingToAdaptError:
    changed = [
        tensor.name
        for tensor in findings.tensors()
        if tensor.outcome is Outcome.LEFT_OUT and tensor.relative_change != 0.0
    ]
    others = (
        f"; {counted(len(changed), 'other tensor')} did change, such as {changed[0]}, which an"
        " adapter of linear layers cannot carry"
        if changed
        else "; are these the right checkpoints?"
    )
    return NothingToAdaptError(
        f"all {len(plan.modules)} chosen layers are equal in {shown(plan.base.reference)}"
        f" and {shown(plan.tuned.reference)}: there is nothing to adapt{others}"
    )

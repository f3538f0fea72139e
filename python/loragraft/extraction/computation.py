"""Takes in what the kernels find: every pair measured, every chosen layer factored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loragraft.errors import NothingToAdaptError
from loragraft.extraction.findings import Findings, Measurement
from loragraft.extraction.opaque import compare_opaque
from loragraft.report.model import Outcome
from loragraft.wording import counted, shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from loragraft.extraction.factors import FactorStore
    from loragraft.extraction.plan import ExtractionPlan
    from loragraft.extraction.unfinished import Unfinished
    from loragraft.extraction.work import Work

    #: Told what is done, bytes done and bytes in all.
    Progress = Callable[[str, int, int], None]


def compute(
    plan: ExtractionPlan,
    work: Work,
    store: FactorStore,
    progress: Progress | None,
    unfinished: Unfinished | None = None,
) -> Findings:
    """Wait for every result and collect it.

    Args:
        plan: What is to be done.
        work: The plan in the hands of the kernels.
        store: Takes the factors.
        progress: Called after every tensor.
        unfinished: What an earlier run finished; takes what this one finishes.

    Raises:
        NothingToAdaptError: No layer differs.
    """
    findings = Findings(plan)
    total = plan.bytes_to_read

    def tell() -> None:
        if progress is not None:
            progress("extract", findings.bytes_read, total)

    for earlier in unfinished.done if unfinished else ():
        findings.add(earlier.unit, earlier.matrix, earlier.measurement)
        if earlier.factors is not None:
            store.place(earlier.unit, earlier.matrix, earlier.factors)
    for number, matrix, result in work:
        found = Measurement.of(result)
        place = None
        if found.rank:
            place = store.add(number, matrix, plan.modules[number], result)
        if unfinished is not None:
            unfinished.journal.record(number, matrix, found, place)
        findings.add(number, matrix, found)
        tell()
    for pair, equal in compare_opaque(plan):
        findings.add_opaque(pair, equal=equal)
        tell()
    if not any(found.rank for found in findings.measurements.values()):
        raise _nothing(plan, findings)
    return findings


def _nothing(plan: ExtractionPlan, findings: Findings) -> NothingToAdaptError:
    changed = [
        tensor.name
        for tensor in findings.tensors([0] * len(plan.modules))
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

"""What is only needed once the kernels are at work: their results made an adapter."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from loragraft.extraction.computation import compute
from loragraft.extraction.factors import FactorStore
from loragraft.extraction.output import (
    config_of,
    retire,
    tensors_path,
    write_documents,
    write_tensors,
)
from loragraft.extraction.preflight import differences
from loragraft.extraction.result import Extraction
from loragraft.extraction.summary import make_report

if TYPE_CHECKING:
    from loragraft.destination import Destination
    from loragraft.extraction.computation import Progress
    from loragraft.extraction.plan import ExtractionPlan
    from loragraft.extraction.spool import Spool
    from loragraft.extraction.work import Work


def complete(
    plan: ExtractionPlan,
    work: Work,
    destination: Destination,
    spool: Spool,
    *,
    started: float,
    with_report: bool,
    progress: Progress | None,
) -> Extraction:
    """Collect the results of a plan and write the adapter.

    Args:
        plan: What is to be done.
        work: The plan in the hands of the kernels.
        destination: Where the adapter goes.
        spool: Where its factors lie until all are there.
        started: When the run began, by ``time.perf_counter``.
        with_report: Write ``report.json`` too.
        progress: Called from time to time.
    """
    unlike = differences(plan.base, plan.tuned)
    store = FactorStore(spool)
    findings = compute(plan, work, store.add, progress)
    # From here on what is in the directory is no longer the adapter that was there.
    retire(destination)
    written = write_tensors(tensors_path(destination), store)
    seconds = time.perf_counter() - started
    report = make_report(plan, findings, differences=unlike, bytes_written=written, seconds=seconds)
    config = config_of(plan, report)
    write_documents(destination, config, report, with_report=with_report)
    return Extraction(report=report, output=destination.directory, config=config)

"""What is only needed once the kernels are at work: their results made adapters."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from loragraft.documents import retire, write_documents
from loragraft.extraction.carried import carry
from loragraft.extraction.computation import compute
from loragraft.extraction.decision import decide
from loragraft.extraction.factors import FactorStore
from loragraft.extraction.output import (
    config_of,
    tensors_path,
    write_tensors,
)
from loragraft.extraction.preflight import differences
from loragraft.extraction.result import Extraction
from loragraft.extraction.summary import make_report
from loragraft.report.card import model_card

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loragraft.destination import Destination
    from loragraft.extraction.computation import Progress
    from loragraft.extraction.plan import ExtractionPlan
    from loragraft.extraction.unfinished import Unfinished
    from loragraft.extraction.work import Work


def complete(
    plan: ExtractionPlan,
    work: Work,
    destinations: Mapping[str, Destination],
    unfinished: Unfinished,
    *,
    started: float,
    with_report: bool,
    progress: Progress | None,
) -> Extraction:
    """Collect the results of a plan and write its adapters.

    Args:
        plan: What is to be done.
        work: The plan in the hands of the kernels.
        destinations: Where the adapters go, by the suffix of their names.
        unfinished: Where the factors lie until all are there, and what is finished.
        started: When the run began, by ``time.perf_counter``.
        with_report: Write ``report.json`` and ``report.html`` too.
        progress: Called from time to time.
    """
    unlike = differences(plan.base, plan.tuned)
    store = FactorStore(unfinished.spool)
    findings = compute(plan, work, store, progress, unfinished)
    choices = decide(plan, findings, store, progress, unfinished)
    done: list[Extraction] = []
    has_peft = plan.options.format != "gguf"
    for choice in choices:
        destination = destinations[choice.suffix]
        # From here on what is in the directory is no longer the adapter that was there.
        retire(destination)
        tensors = findings.tensors(choice.ranks)
        carried = carry(plan, choice, tensors)
        config = config_of(plan, choice, carried)
        written = write_tensors(
            tensors_path(destination), plan, choice, choice.store(store), carried
        )
        patch = None
        if plan.options.patch:
            from loragraft.extraction.patch import write_patch  # noqa: PLC0415 -- needs NumPy

            patch = write_patch(plan, destination, config, written, progress)
        gguf = None
        if plan.options.format != "peft":
            from loragraft.extraction.gguf_output import write_adapter_gguf  # noqa: PLC0415

            gguf = write_adapter_gguf(plan, destination, config)
        report = make_report(
            plan,
            findings,
            choice,
            carried.told(tensors),
            before=unlike,
            after=carried.warnings(config, has_gguf=gguf is not None),
            bytes_written=written,
            patch=patch,
            gguf=gguf,
            seconds=time.perf_counter() - started,
        )
        data = report.to_json() if with_report else None
        card = model_card(report, config)
        write_documents(destination, config if has_peft else None, data, card)
        done.append(Extraction(report=report, output=destination.directory, config=config))
    return replace(done[-1], smaller=tuple(done[:-1]))

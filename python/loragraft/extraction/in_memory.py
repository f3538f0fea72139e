"""An extraction that writes nothing: its factors are arrays."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from loragraft.adapter.whole_plan import WholePlan
from loragraft.extraction.assembly import assemble
from loragraft.extraction.carried import Carried
from loragraft.extraction.computation import compute
from loragraft.extraction.decision import decide
from loragraft.extraction.factors import FactorStore
from loragraft.extraction.output import config_of
from loragraft.extraction.preflight import check_memory, differences
from loragraft.extraction.result import Extraction
from loragraft.extraction.summary import make_report
from loragraft.extraction.work import Work
from loragraft.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from loragraft.extraction.choice import Choice
    from loragraft.extraction.computation import Progress
    from loragraft.extraction.plan import ExtractionPlan


@dataclass(frozen=True, slots=True)
class Factors:
    """The LoRA factors of one module: ΔW ≈ (alpha / rank)·B·A.

    Attributes:
        lora_A: Shape ``(rank, in)``; bfloat16 as ``uint16`` bit patterns. Of experts, packed as
            PEFT does: ``(experts * rank, in)``, by expert.
        lora_B: Shape ``(out, rank)``; of experts ``(out, rank * experts)``, by rank.
        dtype: Safetensors code of both.
        alpha: Alpha of the module.
    """

    lora_A: NDArray[np.generic]  # noqa: N815 -- the field's names
    lora_B: NDArray[np.generic]  # noqa: N815
    dtype: str
    alpha: float


def run_in_memory(plan: ExtractionPlan, progress: Progress | None) -> Extraction:
    """Carry a plan out and keep the factors; see `extract`."""
    start = time.perf_counter()
    check_memory(plan)
    with Spool.in_memory() as spool, Work(plan) as work:
        store = FactorStore(spool)
        unlike = differences(plan.base, plan.tuned)
        findings = compute(plan, work, store, progress)
        done = []
        for choice in decide(plan, findings, store, progress):
            kept = dict(_factors(plan, choice, choice.store(store)))
            tensors = findings.tensors(choice.ranks)
            config = config_of(plan, choice, Carried(WholePlan()))
            report = make_report(
                plan,
                findings,
                choice,
                tensors,
                before=unlike,
                bytes_written=sum(f.lora_A.nbytes + f.lora_B.nbytes for f in kept.values()),
                seconds=time.perf_counter() - start,
            )
            done.append(Extraction(report=report, output=None, factors=kept, config=config))
    return replace(done[-1], smaller=tuple(done[:-1]))


def _factors(
    plan: ExtractionPlan, choice: Choice, store: FactorStore
) -> Iterator[tuple[str, Factors]]:
    for one in choice.written(plan):
        a, b = assemble(store, one)
        alpha = plan.options.scaling * one.rank
        yield one.module.linear.name, Factors(a, b, store.dtype(one.number), alpha)

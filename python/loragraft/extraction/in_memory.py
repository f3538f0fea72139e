"""An extraction that writes nothing: its factors are arrays."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from loragraft.extraction.computation import compute
from loragraft.extraction.factors import oriented
from loragraft.extraction.output import config_of
from loragraft.extraction.preflight import check_memory, differences
from loragraft.extraction.result import Extraction
from loragraft.extraction.summary import make_report
from loragraft.extraction.work import Work
from loragraft.number_formats import DTYPES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loragraft import native
    from loragraft.extraction.computation import Progress
    from loragraft.extraction.plan import ExtractionPlan, ModulePlan


@dataclass(frozen=True, slots=True)
class Factors:
    """The LoRA factors of one module: ΔW ≈ (alpha / rank)·B·A.

    Attributes:
        lora_A: Shape ``(rank, in)``; bfloat16 as ``uint16`` bit patterns.
        lora_B: Shape ``(out, rank)``.
        dtype: Safetensors code of both.
        alpha: Alpha of the module.
    """

    lora_A: NDArray[np.generic]  # noqa: N815 -- the field's names
    lora_B: NDArray[np.generic]  # noqa: N815
    dtype: str
    alpha: float

    @classmethod
    def of(cls, module: ModulePlan, result: native.ModuleResult, scaling: float) -> Factors:
        """Make arrays of the factors of one result."""
        storage, (rows, columns) = DTYPES[result.dtype].storage, module.linear.shape
        a, b = (np.frombuffer(data, dtype=storage) for data in oriented(module, result))
        return cls(
            a.reshape(result.rank, columns),
            b.reshape(rows, result.rank),
            result.dtype,
            scaling * result.rank,
        )


def run_in_memory(plan: ExtractionPlan, progress: Progress | None) -> Extraction:
    """Carry a plan out and keep the factors; see `extract`."""
    start = time.perf_counter()
    check_memory(plan)
    kept: dict[str, Factors] = {}

    def keep(module: ModulePlan, result: native.ModuleResult) -> None:
        kept[module.linear.name] = Factors.of(module, result, plan.options.scaling)

    with Work(plan) as work:
        unlike = differences(plan.base, plan.tuned)
        findings = compute(plan, work, keep, progress)
    written = sum(f.lora_A.nbytes + f.lora_B.nbytes for f in kept.values())
    seconds = time.perf_counter() - start
    report = make_report(plan, findings, differences=unlike, bytes_written=written, seconds=seconds)
    order = [module.linear.name for module in plan.modules if module.linear.name in kept]
    return Extraction(
        report=report,
        output=None,
        factors={name: kept[name] for name in order},
        config=config_of(plan, report),
    )

"""Extraction: ΔW of two checkpoints, factored module by module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loragraft.extraction.extraction import extract, plan_extraction, run_plan
from loragraft.extraction.options import ExtractOptions
from loragraft.extraction.plan import ExtractionPlan
from loragraft.extraction.ranks import parse_rank
from loragraft.extraction.result import Extraction

if TYPE_CHECKING:
    from loragraft.extraction.in_memory import Factors

__all__ = [
    "ExtractOptions",
    "Extraction",
    "ExtractionPlan",
    "Factors",
    "extract",
    "parse_rank",
    "plan_extraction",
    "run_plan",
]


def __getattr__(name: str) -> Any:
    # Factors in memory are arrays; nothing else here needs NumPy.
    if name == "Factors":
        from loragraft.extraction.in_memory import Factors  # noqa: PLC0415

        return Factors
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

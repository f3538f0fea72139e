"""Extraction: ΔW of two checkpoints, factored module by module."""

from loragraft.extraction.extraction import extract, plan_extraction, run_plan
from loragraft.extraction.options import ExtractOptions, require_format
from loragraft.extraction.plan import ExtractionPlan
from loragraft.extraction.ranks import parse_rank
from loragraft.extraction.result import Extraction

__all__ = [
    "ExtractOptions",
    "Extraction",
    "ExtractionPlan",
    "extract",
    "parse_rank",
    "plan_extraction",
    "require_format",
    "run_plan",
]

"""Extraction: ΔW of two checkpoints, factored module by module."""

from loragraft.extraction.extraction import Extraction, extract, plan_extraction, run_plan
from loragraft.extraction.factors import Factors
from loragraft.extraction.options import ExtractOptions, require_format
from loragraft.extraction.plan import ExtractionPlan
from loragraft.extraction.ranks import parse_rank

__all__ = [
    "ExtractOptions",
    "Extraction",
    "ExtractionPlan",
    "Factors",
    "extract",
    "parse_rank",
    "plan_extraction",
    "require_format",
    "run_plan",
]

"""Comparison: how much two models' weights and their subspaces have in common."""

from loragraft.comparison.comparison import Comparison, compare

__all__ = ["Comparison", "compare"]

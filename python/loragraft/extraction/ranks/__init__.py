"""Rank rules: which of the computed triplets of every module are written."""

from loragraft.extraction.ranks.auto import AutoRank
from loragraft.extraction.ranks.budget import BudgetRank
from loragraft.extraction.ranks.rules import (
    MAX_RANK,
    FixedRank,
    RankRule,
    SeveralRanks,
    parse_rank,
    rules,
)
from loragraft.extraction.ranks.shares import EnergyRank, ErrorRank
from loragraft.extraction.ranks.spectrum import Spectrum

__all__ = [
    "MAX_RANK",
    "AutoRank",
    "BudgetRank",
    "EnergyRank",
    "ErrorRank",
    "FixedRank",
    "RankRule",
    "SeveralRanks",
    "Spectrum",
    "parse_rank",
    "rules",
]

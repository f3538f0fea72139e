"""Rank rules: how many singular triplets of each module are written.

The factorisation is made once, with as many triplets as a rule may need; a rule only chooses among
them, for all modules together. docs/ranks.md defines every rule.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from loragraft.errors import UsageError
from loragraft.extraction.ranks.auto import AutoRank
from loragraft.extraction.ranks.budget import BudgetRank
from loragraft.extraction.ranks.shares import EnergyRank, ErrorRank
from loragraft.wording import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loragraft.extraction.ranks.spectrum import Spectrum

#: Default of ``--max-rank``.
MAX_RANK: Final = 128
_FORMS: Final = (
    "a rank such as 16, several such as 8,16,32, auto, energy=0.95, error=0.05 or budget=20M"
)
_NUMERIC: Final = re.compile(r"[-+.,\d\s]*")
_RANK: Final = re.compile(r"0*[1-9]\d{0,8}", re.ASCII)
_COUNT: Final = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)([kmg]?)", re.ASCII | re.IGNORECASE)
_FACTORS: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


class RankRule(Protocol):
    """Chooses the ranks of all adapter parameters.

    Attributes:
        most: How many triplets to factor at most.
        fixed: Whether the rule always chooses `most`, so that sizes are known beforehand.
    """

    @property
    def most(self) -> int:
        """Largest rank the rule can choose; the factorisation computes this many triplets."""

    @property
    def fixed(self) -> bool:
        """Whether the rule always chooses `most`, so that sizes are known beforehand."""

    def choose(self, spectra: Sequence[Spectrum]) -> list[int]:
        """Return the rank of every adapter parameter, 0 to ``spectrum.available``.

        Raises:
            MismatchError: The rule cannot be met.
        """


class FixedRank(NamedTuple):
    """The same rank for every module that is large enough."""

    most: int
    fixed: bool = True

    def choose(self, spectra: Sequence[Spectrum]) -> list[int]:
        """Return the rank, or as many triplets as a module has."""
        return [min(self.most, spectrum.available) for spectrum in spectra]


class SeveralRanks(NamedTuple):
    """Several fixed ranks, each an adapter of its own, all from one factorisation.

    Attributes:
        ranks: In increasing order, each once.
    """

    ranks: tuple[int, ...]
    fixed: bool = True

    @property
    def most(self) -> int:
        """The largest of them."""
        return self.ranks[-1]

    def choose(self, spectra: Sequence[Spectrum]) -> list[int]:
        """Return the largest of the ranks; `rules` has a rule for each."""
        return FixedRank(self.most).choose(spectra)


def rules(rule: RankRule) -> tuple[tuple[str, RankRule], ...]:
    """Return the rule of every adapter to write, and what is added to the name of its directory."""
    if isinstance(rule, SeveralRanks):
        return tuple((f"-r{rank}", FixedRank(rank)) for rank in rule.ranks)
    return (("", rule),)


def parse_rank(value: int | str, max_rank: int | None = None) -> RankRule:
    """Read the options ``--rank`` and ``--max-rank``.

    Args:
        value: A positive integer, as a number or as text, or one of the rules' texts.
        max_rank: Largest rank of any module; None for 128, or for none where ranks are given.

    Raises:
        UsageError: Anything else.
    """
    text = str(value).strip()
    if max_rank is not None and max_rank < 1:
        raise UsageError(f"--max-rank {max_rank}: expected a whole number of at least 1")
    most = MAX_RANK if max_rank is None else max_rank
    name, equals, argument = text.partition("=")
    if text == "auto":
        return AutoRank(most)
    if equals and name == "energy":
        return EnergyRank(_share(text, argument), most)
    if equals and name == "error":
        return ErrorRank(_share(text, argument), most)
    if equals and name == "budget":
        return BudgetRank(_parameters(text, argument), most)
    return _fixed(text, max_rank)


def _fixed(text: str, max_rank: int | None) -> RankRule:
    parts = [part.strip() for part in text.split(",")]
    if not all(_RANK.fullmatch(part) for part in parts):
        expected = "a whole number of at least 1" if _NUMERIC.fullmatch(text) else _FORMS
        raise UsageError(f"--rank {shown(text)}: expected {expected}")
    ranks = sorted(set(map(int, parts)))
    if max_rank is not None and ranks[-1] > max_rank:
        raise UsageError(
            f"--rank {text}: {ranks[-1]} exceeds --max-rank {max_rank}; leave --max-rank out"
        )
    return SeveralRanks(tuple(ranks)) if ranks[1:] else FixedRank(ranks[0])


def _share(text: str, argument: str) -> float:
    try:
        share = float(argument)
    except ValueError:
        share = math.nan
    if not 0.0 < share < 1.0:
        raise UsageError(f"--rank {shown(text)}: expected a share between 0 and 1, such as 0.95")
    return share


def _parameters(text: str, argument: str) -> int:
    match = _COUNT.fullmatch(argument.strip())
    count = math.floor(float(match[1]) * _FACTORS[match[2].lower()]) if match else 0
    if count < 1:
        raise UsageError(
            f"--rank {shown(text)}: expected a number of parameters, such as 500k, 20M or 1.5G"
        )
    return count

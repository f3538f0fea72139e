"""What a method of whole models has to say about one pair of modules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loragraft.transferring.maps import Term
    from loragraft.transferring.methods.method import Bases, Shape


@dataclass(slots=True)
class PairMaps:
    """The maps of one pair, or why there are none.

    Attributes:
        name: The method.
        summands: The one summand P ΔW_s Qᵀ.
        told: What a reader must know; empty where there is nothing.
        why: Why there is none; empty where there is one.
    """

    name: str
    summands: tuple[Term, ...] = ()
    told: str = ""
    why: str = ""
    exact: bool = False

    def refusal(self, source: Shape, target: Shape) -> str:
        """Return why there are no maps."""
        del source, target
        return self.why

    def terms(self, bases: Bases) -> tuple[Term, ...]:
        """P and Q of this pair."""
        del bases
        return self.summands

    def chance(self, bases: Bases) -> float:
        """Return 1: how much of a norm such maps keep says nothing of what the models share."""
        del bases
        return 1.0

    def remark(self, source: Shape, target: Shape) -> str:
        """Return what was told."""
        del source, target
        return self.told

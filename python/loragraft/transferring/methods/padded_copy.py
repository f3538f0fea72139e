"""The padded copy, a control: what a transfer must beat that uses nothing of the target."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loragraft.transferring.maps import Resized, Term

if TYPE_CHECKING:
    from loragraft.transferring.methods.method import Bases, Shape


class PaddedCopy:
    """Factors cut off, or filled up with zeros, to the target's shape by index."""

    name = "padded-copy"
    exact = False

    def refusal(self, source: Shape, target: Shape) -> str:
        """Any two shapes will do."""
        del source, target
        return ""

    def terms(self, bases: Bases) -> tuple[Term, ...]:
        """P and Q are leading parts of the identity."""
        _, (m, n) = bases.shapes
        return (Term(Resized(m), Resized(n)),)

    def chance(self, bases: Bases) -> float:
        """Return the share of an update spread evenly that cutting leaves."""
        (m_s, n_s), (m_t, n_t) = bases.shapes
        return float((min(m_s, m_t) / m_s * min(n_s, n_t) / n_s) ** 0.5)

    def remark(self, source: Shape, target: Shape) -> str:
        """Say what it is."""
        del source, target
        return "a control: coordinates are paired by index, which has no meaning"

"""Copy: the update of the source, unchanged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loragraft.transferring.maps import Identity, Term

if TYPE_CHECKING:
    from loragraft.transferring.methods.method import Bases, Shape


class Copy:
    """ΔW_t = ΔW_s, as PortLLM (arXiv 2410.10870) does onto later releases of the same model.

    Right where T is S trained further; between models trained apart, coordinate i of the one has
    nothing to do with coordinate i of the other.
    """

    name = "copy"
    exact = True

    def refusal(self, source: Shape, target: Shape) -> str:
        """Refuse weights of different shapes; to crop or pad would pair unrelated coordinates."""
        if source == target:
            return ""
        return (
            f"copy needs equal shapes, got {source[0]} × {source[1]} in the source and"
            f" {target[0]} × {target[1]}; choose another --method"
        )

    def terms(self, bases: Bases) -> tuple[Term, ...]:
        """P = I, Q = I."""
        del bases
        return (Term(Identity(), Identity()),)

    def chance(self, bases: Bases) -> float:
        """Everything is kept whatever the models share, so the norm says nothing."""
        del bases
        return 1.0

    def remark(self, source: Shape, target: Shape) -> str:
        """There is nothing to remark."""
        del source, target
        return ""

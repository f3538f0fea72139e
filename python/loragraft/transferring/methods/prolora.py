"""ProLoRA: the subspace part and the null-space part of an update, each projected on its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loragraft.transferring.maps import Chain, Complement, Factored, Term

if TYPE_CHECKING:
    from loragraft.transferring.methods.method import Bases, Shape


class ProLora:
    """ProLoRA (arXiv 2506.04244).

    ΔW∥ = U_s U_sᵀ ΔW V_s V_sᵀ and ΔW⊥ = (I − U_s U_sᵀ) ΔW (I − V_s V_sᵀ) of the source become
    ΔW_t = U_t U_tᵀ ΔW∥ V_t V_tᵀ + (I − U_t U_tᵀ) ΔW⊥ (I − V_t V_tᵀ). What is in the subspace on one
    side only belongs to neither part and is dropped. The rank is at most twice the adapter's, and
    is cut back to it.
    """

    name = "prolora"
    exact = False

    def refusal(self, source: Shape, target: Shape) -> str:
        """Refuse weights of different shapes: the null spaces share no coordinates."""
        if source == target:
            return ""
        return (
            f"prolora needs equal shapes, got {source[0]} × {source[1]} in the source and"
            f" {target[0]} × {target[1]}; choose another --method"
        )

    def terms(self, bases: Bases) -> tuple[Term, ...]:
        """Return the subspace part and the null-space part."""
        source, target = bases
        return (
            Term(
                Chain((Factored(source.U, source.U), Factored(target.U, target.U))),
                Chain((Factored(source.V, source.V), Factored(target.V, target.V))),
            ),
            Term(
                Chain((Complement(source.U), Complement(target.U))),
                Chain((Complement(source.V), Complement(target.V))),
            ),
        )

    def chance(self, bases: Bases) -> float:
        """Return √((ab)² + ((1 − a)(1 − b))²) with a = r/m and b = r/n, before the rank is cut."""
        (m, n), _ = bases.shapes
        a, b = bases.rank / m, bases.rank / n
        return float(((a * b) ** 2 + ((1.0 - a) * (1.0 - b)) ** 2) ** 0.5)

    def remark(self, source: Shape, target: Shape) -> str:
        """There is nothing to remark."""
        del source, target
        return ""

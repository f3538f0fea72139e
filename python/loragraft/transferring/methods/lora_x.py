"""LoRA-X: the update projected on the target's singular subspaces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from loragraft.transferring.maps import Factored, Term

if TYPE_CHECKING:
    from loragraft.transferring.methods.method import Bases, Shape

#: What holds for every map that pairs the i-th singular vectors of two weights.
BY_INDEX: Final = (
    "the map U_t U_sᵀ between different shapes pairs singular vectors by index: it depends on their"
    " signs and order, which mean nothing; the signs are fixed by convention only"
)


class LoraX:
    """LoRA-X (arXiv 2501.16559).

    Equal shapes, its equation 3: ΔW_t = U_t U_tᵀ ΔW_s V_t V_tᵀ. It depends on subspaces alone, not
    on the choice of the vectors that span them.

    Different shapes, its section 4.2.2: P = argmin ‖U_t − P U_s‖_F, whose solution of least norm is
    P = U_t U_s⁺ = U_t U_sᵀ, and Q = V_t V_sᵀ alike. ΔW_t = U_t (U_sᵀ ΔW_s V_s) V_tᵀ depends on the
    signs and the order of singular vectors: it is gauge dependent.
    """

    name = "lora-x"
    exact = False

    def refusal(self, source: Shape, target: Shape) -> str:
        """Any two shapes will do."""
        del source, target
        return ""

    def terms(self, bases: Bases) -> tuple[Term, ...]:
        """P = U_t U_tᵀ and Q = V_t V_tᵀ; U_t U_sᵀ and V_t V_sᵀ between different shapes."""
        source, target = bases
        origin = target if bases.same_shape else source
        return (Term(Factored(target.U, origin.U), Factored(target.V, origin.V)),)

    def chance(self, bases: Bases) -> float:
        """Return r / √(mn) with the source's m and n, in which the projection takes place."""
        (m, n), _ = bases.shapes
        return float(bases.rank / (m * n) ** 0.5)

    def remark(self, source: Shape, target: Shape) -> str:
        """Tell where the map is gauge dependent."""
        return "" if source == target else BY_INDEX

"""Cross-LoRA: LoRA-Align and LoRA-Shift."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from loragraft.transferring.maps import Factored, LinearMap, Term
from loragraft.transferring.methods.lora_x import BY_INDEX

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loragraft.transferring.methods.method import Bases, Shape


class CrossLora:
    """Cross-LoRA (arXiv 2508.05232).

    LoRA-Align: P_U = argmin ‖U_s P − U_t‖_F = U_sᵀ U_t, aligned basis Ũ_s = U_s P_U; the same for
    V. LoRA-Shift: ΔW_t = U_t (Ũ_sᵀ ΔW_s Ṽ_s) V_tᵀ, then refactored to the adapter's rank. That is
    equation 3 of LoRA-X after a projection on the source's own subspaces.

    U_s P has m_s rows, so LoRA-Align is not defined on a side where the widths differ. The repair
    taken here is the left map of LoRA-X, section 4.2.2, on that side: P = U_t U_sᵀ.
    """

    name = "cross-lora"
    exact = False

    def refusal(self, source: Shape, target: Shape) -> str:
        """Any two shapes will do."""
        del source, target
        return ""

    def terms(self, bases: Bases) -> tuple[Term, ...]:
        """P = U_t Ũ_sᵀ and Q = V_t Ṽ_sᵀ."""
        source, target = bases
        return (Term(_shift(source.U, target.U), _shift(source.V, target.V)),)

    def chance(self, bases: Bases) -> float:
        """Return the product over both sides of r/m, or √(r/m) where the repair is taken."""
        sides = zip(*bases.shapes, strict=True)
        shares = [
            bases.rank / width if width == other else (bases.rank / width) ** 0.5
            for width, other in sides
        ]
        return float(shares[0] * shares[1])

    def remark(self, source: Shape, target: Shape) -> str:
        """Name the repair where it is taken."""
        sides = zip(("output", "input"), source, target, strict=True)
        repaired = [name for name, width, other in sides if width != other]
        if not repaired:
            return ""
        where = " and ".join(repaired)
        return f"LoRA-Align is undefined on the {where} side; repaired as LoRA-X does: {BY_INDEX}"


def _shift(source: NDArray[np.float32], target: NDArray[np.float32]) -> LinearMap:
    """Return U_t Ũ_sᵀ = U_t (U_tᵀ U_s) U_sᵀ, or U_t U_sᵀ between spaces of different width."""
    if source.shape[0] != target.shape[0]:
        return Factored(target, source)
    wide = target.astype(np.float64)
    return Factored(wide @ (wide.T @ source.astype(np.float64)), source)

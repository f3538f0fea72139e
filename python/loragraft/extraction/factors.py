"""The factors of an extraction, while it runs and after."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from loragraft.dtypes import DTYPES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loragraft import native
    from loragraft.extraction.plan import ModulePlan
    from loragraft.extraction.spool import Extent, Spool


@dataclass(frozen=True, slots=True)
class Factors:
    """The LoRA factors of one module: ΔW ≈ (alpha / rank)·B·A.

    Attributes:
        lora_A: Shape ``(rank, in)``; bfloat16 as ``uint16`` bit patterns.
        lora_B: Shape ``(out, rank)``.
        dtype: Safetensors code of both.
        alpha: Alpha of the module.
    """

    lora_A: NDArray[np.generic]  # noqa: N815 -- the field's names
    lora_B: NDArray[np.generic]  # noqa: N815
    dtype: str
    alpha: float


@dataclass(frozen=True, slots=True)
class StoredFactors:
    """Where a module's factors lie in the spool; rows and columns are PEFT's out and in."""

    dtype: str
    rank: int
    rows: int
    columns: int
    lora_a: Extent
    lora_b: Extent


@dataclass(slots=True)
class FactorStore:
    """Factors by module name, spooled to disk."""

    spool: Spool
    modules: dict[str, StoredFactors] = field(default_factory=dict)

    def add(self, module: ModulePlan, result: native.ModuleResult) -> None:
        """Take the factors of one result."""
        a, b = oriented(module, result)
        rows, columns = module.linear.shape
        self.modules[module.linear.name] = StoredFactors(
            result.dtype,
            result.rank,
            rows,
            columns,
            self.spool.append(a.tobytes()),
            self.spool.append(b.tobytes()),
        )

    def read(self, extent: Extent) -> bytes:
        """Return the bytes of one factor."""
        return self.spool.read(extent)


def oriented(
    module: ModulePlan, result: native.ModuleResult
) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """Return (A, B) in PEFT's orientation.

    The kernels factor the tensor as it is stored. Where that is ``[in, out]``, the roles of the
    factors change: (L R)ᵀ = Rᵀ Lᵀ.
    """
    assert module.pair.base is not None
    rows, columns = module.pair.base.shape
    storage = DTYPES[result.dtype].storage
    right = np.frombuffer(result.lora_a, dtype=storage).reshape(result.rank, columns)
    left = np.frombuffer(result.lora_b, dtype=storage).reshape(rows, result.rank)
    return (left.T, right.T) if module.linear.transposed else (right, left)

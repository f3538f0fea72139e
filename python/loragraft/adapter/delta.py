"""The change that one adapter module makes to its weight, in slabs of rows and in plain NumPy.

Verification and merging both take it from here, so what one measures is what the other writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from loragraft.errors import NonFiniteError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from loragraft.adapter.placement import Placement
    from loragraft.tensor_reader import TensorReader

#: Largest float32 slab of one operand. Small enough to stay in the cache between the few passes
#: that are made over it, large enough for BLAS.
SLAB_BYTES: Final = 4 << 20


def slabs(rows: int, columns: int, slab_bytes: int = SLAB_BYTES) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) row ranges, each at most ``slab_bytes`` of float32 and at least one row.

    The ranges depend on the shape alone: BLAS may round a product differently for another number
    of rows, and what `merge` writes must be what `verify` calls bit-exact.
    """
    step = max(1, slab_bytes // (4 * max(1, columns)))
    for start in range(0, rows, step):
        yield start, min(rows, start + step)


@dataclass(frozen=True, slots=True)
class Delta:
    """scaling·B·A of one module, in the orientation of the stored tensor.

    Attributes:
        left: B ``(out, r)``; Aᵀ ``(in, r)`` where the tensor is stored ``[in, out]``.
        right: A ``(r, in)``; Bᵀ ``(r, out)`` where the tensor is stored ``[in, out]``.
        scaling: ``alpha / r``, or ``alpha / √r`` with rsLoRA.
    """

    left: NDArray[np.float32]
    right: NDArray[np.float32]
    scaling: float

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the stored tensor."""
        return self.left.shape[0], self.right.shape[1]

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return rows ``start:stop``: the product in float32, then times float32(scaling).

        With u = 2⁻²⁴ and rank r every value is within (r + 2)·u·|scaling|·(|B|·|A|) of the
        exact one, whatever the order in which BLAS sums.
        """
        # A product that overflows is found by whoever uses the values, with a name to report.
        with np.errstate(over="ignore", invalid="ignore"):
            product = self.left[start:stop] @ self.right
            product *= np.float32(self.scaling)
        return product


def load_delta(reader: TensorReader, placement: Placement) -> Delta:
    """Read both factors of a module, widened to float32.

    Raises:
        NonFiniteError: A factor holds NaN or Inf.
    """
    module = placement.module
    factors = []
    for entry in (module.lora_B, module.lora_A):
        values = reader.rows(entry, 0, entry.shape[0])
        if not np.isfinite(values).all():
            raise NonFiniteError(
                f"{entry.path.name}: tensor {entry.name} holds NaN or Inf: expected finite"
                " factors; the adapter is broken, make or download it again"
            )
        factors.append(values)
    b, a = factors
    if placement.linear.transposed:
        return Delta(np.ascontiguousarray(a.T), np.ascontiguousarray(b.T), module.scaling)
    return Delta(b, a, module.scaling)

"""The change that one adapter module makes to its weight, in slabs of rows and in plain NumPy.

Verification and merging both take it from here, so what one measures is what the other writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from loragraft.dtypes import to_float32
from loragraft.errors import NonFiniteError
from loragraft.finiteness import first_not_finite

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from loragraft.adapter.peft import AdapterModule
    from loragraft.adapter.placement import Placement
    from loragraft.tensor_reader import TensorReader

#: Largest float32 slab of one operand. Small enough to stay in the cache between the few passes
#: that are made over it, large enough for BLAS.
SLAB_BYTES: Final = 4 << 20
#: Unit roundoff of float32, and its least normal number, below which a machine may flush to zero.
_UNIT: Final = 2.0**-24
_TINY: Final = 2.0**-126
#: Room for the roundings of the bound itself and the squares of (r + 2)·u, up to rank 16,000.
_ROOM: Final = 1.001
#: Modules whose packed lora_B is kept.
_KEPT: Final = 2


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
    """scaling·B·A of one weight, or its transpose.

    Attributes:
        left: B ``(out, r)``; Aᵀ ``(in, r)`` for a weight that is stored ``[in, out]``.
        right: A ``(r, in)``; Bᵀ ``(r, out)`` for a weight that is stored ``[in, out]``.
        scaling: ``alpha / r``, or ``alpha / √r`` with rsLoRA.
    """

    left: NDArray[np.float32]
    right: NDArray[np.float32]
    scaling: float

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the weight, or of its transpose."""
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

    def bound(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return how far `rows` can be, entry by entry, from what another machine computes.

        Both are within what `rows` promises of the exact product, hence within twice that of each
        other; (|B|·|A|)_ij ≤ ‖b_i‖·‖a_j‖ (Cauchy–Schwarz). No bound is zero: sums that underflow
        are within it too, and so is the sign of a zero.
        """
        (_, rank), scaling = self.left.shape, abs(float(np.float32(self.scaling)))
        factor = 2.0 * (rank + 2)
        left = np.linalg.norm(self.left[start:stop].astype(np.float64), axis=1)
        right = np.linalg.norm(self.right.astype(np.float64), axis=0)
        left *= _ROOM * factor * _UNIT * scaling
        bound: NDArray[np.float32] = left.astype(np.float32)[:, None] * right.astype(np.float32)
        bound += np.float32(factor * max(1.0, scaling) * _TINY)
        return bound


class DeltaReader:
    """Reads the changes of modules, of one expert at a time.

    The lora_B of the last few modules with experts is kept: an expert's columns are strewn over all
    of it, and the experts of a block's parameters often come in turn.
    """

    def __init__(self, reader: TensorReader) -> None:
        """Take what reads the adapter's tensors."""
        self._reader = reader
        self._packed: dict[str, NDArray[np.generic]] = {}

    def delta(self, placement: Placement, expert: int = 0, *, transposed: bool) -> Delta:
        """Read both factors of a weight, widened to float32.

        Args:
            placement: The module and where it sits.
            expert: Which of its experts.
            transposed: Give the change of the transposed weight, ``[in, out]``.

        Raises:
            NonFiniteError: A factor holds NaN or Inf.
            FormatError: A file cannot be read.
        """
        module = placement.module
        b, a = self._factors(module, expert)
        for entry, values in ((module.lora_B, b), (module.lora_A, a)):
            if not np.isfinite(values).all():
                what = first_not_finite(self._reader, entry) or "NaN or Inf"
                raise NonFiniteError(
                    f"{entry.path.name}: tensor {entry.name} holds {what}: expected finite"
                    " factors; the adapter is broken, make or download it again"
                )
        if placement.linear.address.swapped != transposed:
            b, a = a.T, b.T
        return Delta(np.ascontiguousarray(b), np.ascontiguousarray(a), module.scaling)

    def _factors(
        self, module: AdapterModule, expert: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return (B, A) as PEFT has them."""
        lora_A, lora_B = module.lora_A, module.lora_B
        start = expert * module.rank
        a = self._reader.rows(lora_A, start, start + module.rank)
        if not module.experts:
            return self._reader.rows(lora_B, 0, lora_B.shape[0]), a
        stored = self._packed.pop(module.name, None)
        if stored is None:
            stored = self._reader.raw_rows(lora_B, 0, lora_B.shape[0])
        while len(self._packed) >= _KEPT:
            del self._packed[next(iter(self._packed))]
        self._packed[module.name] = stored
        return to_float32(stored[:, expert :: module.experts], lora_B.dtype), a

"""The factors of an extraction, on their way from the kernels to the adapter's file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from loragraft.number_formats import DTYPES

if TYPE_CHECKING:
    from loragraft import native
    from loragraft.extraction.plan import ModulePlan
    from loragraft.extraction.spool import Extent, Spool


class StoredFactors(NamedTuple):
    """Where a module's factors lie in the spool; rows and columns are PEFT's out and in."""

    dtype: str
    rank: int
    rows: int
    columns: int
    lora_a: Extent
    lora_b: Extent


class FactorStore:
    """Factors by module name, spooled to disk.

    Attributes:
        modules: What has been taken so far.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self.modules: dict[str, StoredFactors] = {}

    def add(self, module: ModulePlan, result: native.ModuleResult) -> None:
        """Take the factors of one result."""
        a, b = oriented(module, result)
        rows, columns = module.linear.shape
        self.modules[module.linear.name] = StoredFactors(
            result.dtype, result.rank, rows, columns, self._spool.append(a), self._spool.append(b)
        )

    def read(self, extent: Extent) -> bytes:
        """Return the bytes of one factor."""
        return self._spool.read(extent)


def oriented(module: ModulePlan, result: native.ModuleResult) -> tuple[bytes, bytes]:
    """Return (A, B) in PEFT's orientation, row by row.

    The kernels factor the tensor as it is stored. Where that is ``[in, out]``, the roles of the
    factors change: (L R)ᵀ = Rᵀ Lᵀ.
    """
    left, right = result.lora_b, result.lora_a
    if not module.linear.transposed:
        return right, left
    out, into = module.linear.shape
    item = DTYPES[result.dtype].bits // 8
    return (
        _transposed(left, into, result.rank, item),
        _transposed(right, result.rank, out, item),
    )


def _transposed(data: bytes, rows: int, columns: int, item: int) -> bytes:
    """Return the transpose of a row-major matrix of `item`-byte numbers."""
    unit: Literal["H", "I"] = "H" if item == 2 else "I"
    source = memoryview(data).cast(unit)
    target = memoryview(bytearray(len(data))).cast(unit)
    # As few strided copies as the shape allows; no arrays, whose library takes longer to load.
    if rows < columns:
        for row in range(rows):
            target[row::rows] = source[row * columns : (row + 1) * columns]
    else:
        for column in range(columns):
            target[column * rows : (column + 1) * rows] = source[column::columns]
    return target.tobytes()

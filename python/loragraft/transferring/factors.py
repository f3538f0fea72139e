"""The factors of one module as they are written, and their norm as written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from loragraft.dtypes import from_float32, to_float32
from loragraft.errors import NonFiniteError
from loragraft.transferring.joining import RowFactors, stacked, taken
from loragraft.transferring.update import Update

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from loragraft.architecture import LinearModule
    from loragraft.tensor_reader import TensorReader
    from loragraft.transferring.pairing import Pair

_WIDEST: Final = "F32"


class WrittenFactors(NamedTuple):
    """The factors of one module of the target.

    Attributes:
        target: The module.
        rank: Their rank.
        alpha: Alpha; the scaling is ``alpha / rank``.
        dtype: Safetensors code.
        lora_A: (rank, in), as stored.
        lora_B: (out, rank), as stored.
    """

    target: LinearModule
    rank: int
    alpha: float
    dtype: str
    lora_A: NDArray[np.generic]  # noqa: N815 -- PEFT's names
    lora_B: NDArray[np.generic]  # noqa: N815

    @property
    def update(self) -> Update:
        """scaling·B·A of the stored numbers."""
        b = to_float32(self.lora_B, self.dtype).astype(np.float64)
        a = to_float32(self.lora_A, self.dtype).astype(np.float64)
        return Update(b * (self.alpha / self.rank), a)

    @property
    def nbytes(self) -> int:
        """Size of both."""
        return self.lora_A.nbytes + self.lora_B.nbytes


def verbatim(reader: TensorReader, pairs: Sequence[Pair]) -> WrittenFactors:
    """Return the factors of an adapter's modules in their places in one layer, bit for bit.

    Args:
        reader: Reads the adapter.
        pairs: Parts of one layer, or all of it, whose sources have one dtype and one scaling.

    Raises:
        FormatError: A file cannot be read.
    """
    target, module = pairs[0].target.whole, pairs[0].source.module
    b, a = stacked(target.shape[0], [_stored(reader, pair) for pair in pairs])
    rank = len(a)
    # scaling is alpha / rank; the quotient of the product may be an ulp off.
    same = rank == module.rank and module.alpha / module.rank == module.scaling
    alpha = module.alpha if same else module.scaling * rank
    return WrittenFactors(target, rank, alpha, module.lora_A.dtype, a, b)


def _stored(reader: TensorReader, pair: Pair) -> RowFactors:
    a, b = pair.source.module.lora_A, pair.source.module.lora_B
    part = pair.source.part
    found = RowFactors(
        part.rows, reader.raw_rows(b, 0, b.shape[0]), reader.raw_rows(a, 0, a.shape[0])
    )
    return (found if part.is_whole else taken(found))._replace(rows=pair.target.rows)


def cast(target: LinearModule, update: Update, scaling: float, dtype: str) -> WrittenFactors:
    """Round an update's factors to a dtype; to float32 where they leave its range.

    Args:
        target: The module.
        update: B and A of equal weight.
        scaling: alpha / rank of the module; the factors make up for it.
        dtype: Safetensors code.

    Raises:
        NonFiniteError: They leave the range of float32 too.
    """
    root = float(np.sqrt(abs(scaling)))
    b, a = update.B / (root if scaling > 0 else -root), update.A / root
    for code in (dtype, _WIDEST):
        stored = [_rounded(values, code) for values in (a, b)]
        if all(values is not None for values in stored):
            lora_a, lora_b = (values for values in stored if values is not None)
            return WrittenFactors(target, update.rank, scaling * update.rank, code, lora_a, lora_b)
    raise NonFiniteError(
        f"module {target.name}: its factors are beyond the range of float32; choose a smaller"
        " --scale"
    )


def _rounded(values: NDArray[np.float64], code: str) -> NDArray[np.generic] | None:
    """Return values rounded to a dtype, None where they overflow or all but vanish."""
    with np.errstate(over="ignore", under="ignore"):
        narrow = values.astype(np.float32)
        stored = from_float32(np.ascontiguousarray(narrow), code)
    wide = to_float32(stored, code)
    if not np.isfinite(wide).all():
        return None
    lost = float(np.linalg.norm(wide.astype(np.float64) - values))
    return stored if code == _WIDEST or lost <= 0.01 * float(np.linalg.norm(values)) else None

"""The norms of the changes that the modules of an adapter make."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from loragraft.adapter.packing import unpack
from loragraft.tensor_reader import TensorReader

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from loragraft.adapter.peft import AdapterModule


def norms(modules: Iterable[AdapterModule]) -> Iterator[float | None]:
    """Yield ‖scaling·B·A‖ (Frobenius) of every module, None where a factor holds NaN or Inf.

    The squares of a module's experts are added up.

    ‖scaling·B·A‖² = scaling²·⟨BᵀB, AAᵀ⟩ in float64, from Gram matrices of size (r, r); the product
    is never formed.
    """
    with TensorReader() as reader:
        for module in modules:
            yield _norm(reader, module)


def _norm(reader: TensorReader, module: AdapterModule) -> float | None:
    a = reader.rows(module.lora_A, 0, module.lora_A.shape[0])
    b = reader.rows(module.lora_B, 0, module.lora_B.shape[0])
    return norm_of(unpack(a, b, max(1, module.experts)), module.scaling)


def norm_of(
    pairs: Iterable[tuple[NDArray[np.float32], NDArray[np.float32]]], scaling: float
) -> float | None:
    """Return ‖scaling·B·A‖ of the factors (B, A) of one or more matrices, see `norms`."""
    squares = []
    for b, a in pairs:
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            return None
        squares.append(_square(b.astype(np.float64), a.astype(np.float64)))
    return abs(scaling) * math.sqrt(max(math.fsum(squares), 0.0))


def _square(b: NDArray[np.float64], a: NDArray[np.float64]) -> float:
    return float(np.vdot(b.T @ b, a @ a.T))

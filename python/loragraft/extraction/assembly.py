"""The two tensors of an adapter's module, put together from the factors of its matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from loragraft.adapter.packing import Packing
from loragraft.dtypes import to_float32
from loragraft.extraction.factors import peft_shape
from loragraft.number_formats import DTYPES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loragraft.extraction.factors import FactorStore, SpooledFactors
    from loragraft.extraction.plan import ModulePlan


def assemble(
    store: FactorStore, number: int, module: ModulePlan, rank: int
) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """Return A ``(rank * experts, in)`` and B ``(out, rank * experts)`` of one module.

    A module that is no stack of experts counts as one.

    Args:
        store: Holds the factors.
        number: Of the module in the plan.
        module: The module.
        rank: Rank of every matrix; one that has fewer triplets is filled up with zeros.
    """
    out, into = peft_shape(module)
    code = store.dtype(number)
    packing = Packing(len(module.unit.base), rank, (out, into), DTYPES[code].storage)
    for matrix, place, raw_a, raw_b in store.read(number):
        a = _array(raw_a, place, code, (place.rank, into))
        b = _array(raw_b, place, code, (out, place.rank))
        packing.put(matrix, b[:, :rank], a[:rank])
    return packing.lora_a, packing.lora_b


def _array(
    raw: bytes, place: SpooledFactors, code: str, shape: tuple[int, int]
) -> NDArray[np.generic]:
    stored = np.frombuffer(raw, DTYPES[place.dtype].storage).reshape(shape)
    return stored if place.dtype == code else to_float32(stored, place.dtype)

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

    from loragraft.extraction.choice import Written
    from loragraft.extraction.factors import FactorStore, SpooledFactors


def assemble(store: FactorStore, one: Written) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """Return A ``(rank * experts, in)`` and B ``(out, rank * experts)`` of one module.

    A module that is no stack of experts counts as one. What a matrix has no triplets for, or shall
    not keep, is zero.

    Args:
        store: Holds the factors.
        one: What is to be written.
    """
    out, into = peft_shape(one.module)
    code = store.dtype(one.number)
    packing = Packing(len(one.module.unit.base), one.rank, (out, into), DTYPES[code].storage)
    for matrix, place, raw_a, raw_b in store.read(one.number):
        a = _array(raw_a, place, code, (place.rank, into))
        b = _array(raw_b, place, code, (out, place.rank))
        packing.put(matrix, b[:, : one.kept], a[: one.kept])
    return packing.lora_a, packing.lora_b


def _array(
    raw: bytes, place: SpooledFactors, code: str, shape: tuple[int, int]
) -> NDArray[np.generic]:
    stored = np.frombuffer(raw, DTYPES[place.dtype].storage).reshape(shape)
    return stored if place.dtype == code else to_float32(stored, place.dtype)

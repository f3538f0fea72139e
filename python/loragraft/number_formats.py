"""The number formats of safetensors files: their codes and sizes."""

from __future__ import annotations

import math
from typing import Final, NamedTuple


class NumberFormat(NamedTuple):
    """One safetensors dtype: its code, its size in bits, and the NumPy type of its storage.

    bfloat16 and the 8-bit floats are no NumPy types; their values travel as bit patterns.
    """

    code: str
    bits: int
    storage: str


_TABLE: Final = (
    NumberFormat("F64", 64, "<f8"),
    NumberFormat("F32", 32, "<f4"),
    NumberFormat("F16", 16, "<f2"),
    NumberFormat("BF16", 16, "<u2"),
    NumberFormat("F8_E4M3", 8, "<u1"),
    NumberFormat("F8_E5M2", 8, "<u1"),
    NumberFormat("F8_E8M0", 8, "<u1"),
    NumberFormat("F8_E4M3FNUZ", 8, "<u1"),
    NumberFormat("F8_E5M2FNUZ", 8, "<u1"),
    NumberFormat("F4", 4, "<u1"),
    NumberFormat("F6_E2M3", 6, "<u1"),
    NumberFormat("F6_E3M2", 6, "<u1"),
    NumberFormat("C64", 64, "<c8"),
    NumberFormat("I64", 64, "<i8"),
    NumberFormat("U64", 64, "<u8"),
    NumberFormat("I32", 32, "<i4"),
    NumberFormat("U32", 32, "<u4"),
    NumberFormat("I16", 16, "<i2"),
    NumberFormat("U16", 16, "<u2"),
    NumberFormat("I8", 8, "<i1"),
    NumberFormat("U8", 8, "<u1"),
    NumberFormat("BOOL", 8, "<u1"),
)
DTYPES: Final = {dtype.code: dtype for dtype in _TABLE}
#: The formats whose weights loragraft computes with.
WEIGHT_DTYPES: Final = ("BF16", "F16", "F32")
#: Those, and the small ones that are values as they stand.
VALUE_DTYPES: Final = (*WEIGHT_DTYPES, "F8_E4M3", "F8_E5M2")
#: Small formats that become weights by scales; the 8-bit floats also stand for themselves.
CODE_DTYPES: Final = ("F8_E4M3", "F8_E5M2", "I8", "U8")
#: Formats of such scales.
SCALE_DTYPES: Final = (*WEIGHT_DTYPES, "F8_E8M0")


def nbytes_of(layout: tuple[str, str, tuple[int, ...]]) -> int:
    """Return the size of a tensor, given as (name, dtype code, shape)."""
    _, code, shape = layout
    return DTYPES[code].bits * math.prod(shape) // 8

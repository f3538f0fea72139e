"""The number formats of safetensors files: codes, sizes, and conversion with NumPy alone.

bfloat16 is not a NumPy type, so its values travel as ``uint16`` bit patterns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from loragraft.errors import FormatError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class DType:
    """One safetensors dtype: its code, its size in bits, and the NumPy type of its storage."""

    code: str
    bits: int
    storage: str


_TABLE: Final = (
    DType("F64", 64, "<f8"),
    DType("F32", 32, "<f4"),
    DType("F16", 16, "<f2"),
    DType("BF16", 16, "<u2"),
    DType("F8_E4M3", 8, "<u1"),
    DType("F8_E5M2", 8, "<u1"),
    DType("F8_E8M0", 8, "<u1"),
    DType("F8_E4M3FNUZ", 8, "<u1"),
    DType("F8_E5M2FNUZ", 8, "<u1"),
    DType("F4", 4, "<u1"),
    DType("F6_E2M3", 6, "<u1"),
    DType("F6_E3M2", 6, "<u1"),
    DType("C64", 64, "<c8"),
    DType("I64", 64, "<i8"),
    DType("U64", 64, "<u8"),
    DType("I32", 32, "<i4"),
    DType("U32", 32, "<u4"),
    DType("I16", 16, "<i2"),
    DType("U16", 16, "<u2"),
    DType("I8", 8, "<i1"),
    DType("U8", 8, "<u1"),
    DType("BOOL", 8, "<u1"),
)
DTYPES: Final = {dtype.code: dtype for dtype in _TABLE}
#: The formats whose weights loragraft computes with.
WEIGHT_DTYPES: Final = ("BF16", "F16", "F32")


def bf16_from_float32(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round to bfloat16, nearest with ties to even, as bit patterns.

    NaN stays NaN (its quiet bit is set); values beyond the largest bfloat16 become infinite.
    """
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = ((bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16).astype(np.uint16)
    nan = np.isnan(values)
    if nan.any():
        rounded[nan] = ((bits[nan] >> 16) | 0x0040).astype(np.uint16)
    return rounded


def float32_from_bf16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Widen bfloat16 bit patterns; exact."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def to_float32(stored: NDArray[np.generic], code: str) -> NDArray[np.float32]:
    """Widen stored weights to float32; exact for every weight dtype.

    Args:
        stored: Values in the storage type of ``code`` (``uint16`` bit patterns for BF16).
        code: Safetensors dtype code, one of `WEIGHT_DTYPES`.

    Raises:
        FormatError: ``code`` is no floating weight format that loragraft computes with.
    """
    if code == "BF16":
        return float32_from_bf16(stored.view(np.uint16))
    if code in {"F16", "F32"}:
        return stored.astype(np.float32)
    raise FormatError(
        f"dtype {code} cannot be computed with: expected one of {', '.join(WEIGHT_DTYPES)}"
    )


def from_float32(values: NDArray[np.float32], code: str) -> NDArray[np.generic]:
    """Round float32 values to a weight dtype, nearest with ties to even.

    Raises:
        FormatError: ``code`` is no weight dtype.
    """
    if code == "BF16":
        return bf16_from_float32(values)
    if code == "F16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16)
    if code == "F32":
        return np.asarray(values, dtype=np.float32)
    raise FormatError(f"dtype {code} cannot be written: expected one of {', '.join(WEIGHT_DTYPES)}")

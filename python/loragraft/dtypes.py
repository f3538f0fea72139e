"""Conversion between the formats of weights, with NumPy alone.

bfloat16 is not a NumPy type, so its values travel as ``uint16`` bit patterns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from loragraft.errors import FormatError
from loragraft.number_formats import WEIGHT_DTYPES

if TYPE_CHECKING:
    from numpy.typing import NDArray


def bf16_from_float32(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round to bfloat16, nearest with ties to even, as bit patterns.

    NaN stays NaN (its quiet bit is set); values beyond the largest bfloat16 become infinite.
    """
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    # In place, for memory is what it waits for.
    wide = bits >> 16
    wide &= 1
    wide += np.uint32(0x7FFF)
    wide += bits
    wide >>= 16
    rounded = wide.astype(np.uint16)
    nan = np.isnan(values)
    if nan.any():
        rounded[nan] = ((bits[nan] >> 16) | 0x0040).astype(np.uint16)
    return rounded


def float32_from_bf16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Widen bfloat16 bit patterns; exact."""
    wide: NDArray[np.uint32] = np.left_shift(bits, 16, dtype=np.uint32)
    return wide.view(np.float32)


def to_float32(stored: NDArray[np.generic], code: str) -> NDArray[np.float32]:
    """Widen stored weights to float32; exact for every weight dtype.

    Args:
        stored: Values in the storage type of ``code`` (``uint16`` bit patterns for BF16).
        code: Safetensors dtype code, one of `number_formats.WEIGHT_DTYPES`.

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

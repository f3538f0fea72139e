"""The numbers that small codes stand for, from the definitions of their formats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from loragraft.dtypes import from_float32, to_float32
from loragraft.errors import FormatError
from loragraft.number_formats import WEIGHT_DTYPES

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Numbers of a microscaled block.
BLOCK: Final = 32
_BIAS_E8M0: Final = 127


def _small_floats(exponent_bits: int, fraction_bits: int, *, infinities: bool) -> NDArray[Any]:
    """Return the values of all 256 codes of an 8-bit float with a sign, in float32.

    Without infinities (E4M3 of OCP's 8-bit formats, "fn") the code of all ones alone is NaN; with
    them (E5M2) the largest exponent holds infinity and NaN, as in IEEE 754.
    """
    bias = (1 << (exponent_bits - 1)) - 1
    top = (1 << exponent_bits) - 1
    values = []
    for code in range(128):
        exponent, fraction = code >> fraction_bits, code & ((1 << fraction_bits) - 1)
        share = fraction / (1 << fraction_bits)
        if infinities and exponent == top:
            values.append(np.nan if fraction else np.inf)
        elif not infinities and code == 127:
            values.append(np.nan)
        elif exponent == 0:
            values.append(share * 2.0 ** (1 - bias))
        else:
            values.append((1.0 + share) * 2.0 ** (exponent - bias))
    return np.array([*values, *(-value for value in values)], np.float32)


def _powers() -> NDArray[np.float32]:
    """Return the values of E8M0: powers of two, and NaN for the last code."""
    values = np.exp2(np.arange(256) - float(_BIAS_E8M0))
    values[255] = np.nan
    powers: NDArray[np.float32] = values.astype(np.float32)
    return powers


#: Values of the codes of every format that is looked up.
TABLES: Final = {
    "F8_E4M3": _small_floats(4, 3, infinities=False),
    "F8_E5M2": _small_floats(5, 2, infinities=True),
    "F8_E8M0": _powers(),
}
_POSITIVE_FP4: Final = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
#: E2M1: sign, two bits of exponent, one of fraction.
FP4: Final = np.array([*_POSITIVE_FP4, *(-value for value in _POSITIVE_FP4)], np.float32)


def widen(stored: NDArray[np.generic], dtype: str) -> NDArray[np.float32]:
    """Return what stored numbers stand for by themselves, in float32, where all are exact.

    Args:
        stored: In the storage type of ``dtype``.
        dtype: A weight dtype, an 8-bit float or an 8-bit integer.

    Raises:
        FormatError: Another dtype.
    """
    if dtype in WEIGHT_DTYPES:
        return to_float32(stored, dtype)
    if dtype in TABLES:
        values: NDArray[np.float32] = TABLES[dtype][stored.view(np.uint8)]
        return values
    if dtype in {"I8", "U8"}:
        return stored.astype(np.float32)
    raise FormatError(f"dtype {dtype} cannot be computed with")


def narrow(values: NDArray[np.float32], dtype: str) -> NDArray[np.generic]:
    """Round to a weight dtype or an 8-bit float, nearest with ties to even, its sign kept.

    Args:
        values: In float32. Beyond the largest number of an 8-bit float they become its infinity, or
            NaN where it has none.
        dtype: Safetensors code.

    Returns:
        In the storage type of ``dtype``.

    Raises:
        FormatError: Another dtype.
    """
    if dtype not in ("F8_E4M3", "F8_E5M2"):
        return from_float32(values, dtype)
    numbers = TABLES[dtype][:128].astype(np.float64)
    count = int(np.count_nonzero(np.isfinite(numbers)))
    # The end of the largest number's cell is where the next would be, half a place further.
    following = 2.0 * numbers[count - 1] - numbers[count - 2]
    ends = (numbers[:count] + np.append(numbers[1:count], following)) / 2.0
    sizes = np.abs(values).astype(np.float64)
    codes = np.searchsorted(ends, sizes)
    # A tie belongs to the even code, of which the next higher may be the one.
    codes += (sizes == ends[np.minimum(codes, count - 1)]) & (codes % 2 == 1)
    codes = np.where(np.isnan(values), 127, np.minimum(codes, count))
    signed: NDArray[np.generic] = (codes | (np.signbit(values) << 7)).astype(np.uint8)
    return signed

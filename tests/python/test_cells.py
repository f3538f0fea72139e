"""Rounding cells: which real numbers a stored one stands for, for every code of every format."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from loragraft import native
from loragraft.errors import UsageError

FORMATS: dict[str, tuple[Any, type[np.unsignedinteger[Any]]]] = {
    "BF16": (ml_dtypes.bfloat16, np.uint16),
    "F16": (np.float16, np.uint16),
    "F8_E4M3": (ml_dtypes.float8_e4m3fn, np.uint8),
    "F8_E5M2": (ml_dtypes.float8_e5m2, np.uint8),
}


def finite_codes(dtype: str) -> tuple[Any, Any]:
    """Every code of a finite number, and the numbers in float32."""
    kind, code = FORMATS[dtype]
    codes = np.arange(2 ** (8 * np.dtype(code).itemsize), dtype=code)
    values = codes.view(kind).astype(np.float32)
    finite = np.isfinite(values)
    return codes[finite], values[finite]


def rounded(values: Any, dtype: str) -> Any:
    """Codes that NumPy and ml_dtypes round float32 numbers to."""
    kind, code = FORMATS[dtype]
    # What overflows is meant to.
    with np.errstate(over="ignore", invalid="ignore"):
        return np.ascontiguousarray(values.astype(kind)).view(code)


@pytest.mark.parametrize("dtype", FORMATS)
def test_ends_of_every_cell(dtype: str) -> None:
    """The ends belong to the cell where they are said to, and their neighbours do not.

    Every end is a float32: it has at most two bits of mantissa more than the format.
    """
    codes, values = finite_codes(dtype)
    low, high, low_closed, high_closed = native.rounding_cells(values, dtype)
    for end, closed, outwards in ((low, low_closed, -np.inf), (high, high_closed, np.inf)):
        at = end.astype(np.float32)
        np.testing.assert_array_equal(at, end)
        # Zero is +0's, whatever the direction that it is reached from.
        at[at == 0.0] = 0.0
        np.testing.assert_array_equal(rounded(at, dtype) == codes, closed)
        inside = np.nextafter(at, np.float32(-outwards))
        np.testing.assert_array_equal(rounded(inside, dtype)[values != 0.0], codes[values != 0.0])
        beyond = np.nextafter(at, np.float32(outwards))
        assert not np.any(rounded(beyond, dtype) == codes)


@pytest.mark.parametrize("dtype", FORMATS)
def test_cells_leave_no_gap(dtype: str) -> None:
    codes, values = finite_codes(dtype)
    low, high, low_closed, high_closed = native.rounding_cells(values, dtype)
    # -0 before +0.
    order = np.lexsort((~np.signbit(values), values))
    np.testing.assert_array_equal(high[order][:-1], low[order][1:])
    assert np.all(high_closed[order][:-1] != low_closed[order][1:]), codes


@pytest.mark.parametrize("dtype", FORMATS)
def test_cells_at_binade_borders_are_lopsided(dtype: str) -> None:
    low, high, low_closed, _ = native.rounding_cells(np.array([1.0, -2.0], np.float32), dtype)
    above = high[0] - 1.0
    assert 1.0 - low[0] == above / 2
    assert (high[1] + 2.0, -2.0 - low[1]) == (above, 2 * above)
    assert low_closed.all()


@pytest.mark.parametrize("dtype", FORMATS)
def test_zeros_keep_their_sign(dtype: str) -> None:
    low, high, low_closed, high_closed = native.rounding_cells(
        np.array([0.0, -0.0], np.float32), dtype
    )
    _, values = finite_codes(dtype)
    half = values[values > 0.0].min().astype(np.float64) / 2
    assert (low[0], high[0], low[1], high[1]) == (0.0, half, -half, 0.0)
    assert (low_closed[0], high_closed[0]) == (True, True)
    assert (low_closed[1], high_closed[1]) == (True, False)


@pytest.mark.parametrize("dtype", FORMATS)
def test_saturating_formats_never_overflow(dtype: str) -> None:
    _, values = finite_codes(dtype)
    largest = values.max()
    ends = np.array([largest, -largest], np.float32)
    lost = native.rounding_cells(ends, dtype)
    kept = native.rounding_cells(ends, dtype, saturated=True)
    assert np.isfinite(lost[0]).all()
    assert np.isfinite(lost[1]).all()
    assert (kept[0][1], kept[1][0]) == (-np.inf, np.inf)
    assert (kept[0][0], kept[1][1]) == (lost[0][0], lost[1][1])


def test_formats_without_cells() -> None:
    with pytest.raises(UsageError, match="rounding cells of dtype F32: expected BF16"):
        native.rounding_cells(np.zeros(1, np.float32), "F32")

"""Rounding to 8-bit floats, against the types of ml_dtypes."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from loragraft.weights.codes import TABLES, narrow, widen

TYPES = {"F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2}


@pytest.mark.parametrize("dtype", TYPES)
def test_every_number_between_and_at_every_tie(dtype: str) -> None:
    finite = np.sort(TABLES[dtype][np.isfinite(TABLES[dtype])]).astype(np.float64)
    ties = (finite[1:] + finite[:-1]) / 2.0
    largest = finite[-1]
    beyond = largest + (largest - finite[-2]) * np.array([0.49, 0.5, 0.51, 1.0, 4.0])
    values = np.concatenate([finite, ties, beyond, -beyond, [0.0, -0.0, np.inf, -np.inf, np.nan]])
    values = values.astype(np.float32)
    values = np.concatenate(
        [values, np.nextafter(values, np.float32(0)), np.nextafter(values, np.float32(np.inf))]
    )
    wanted = values.astype(TYPES[dtype])
    found = narrow(values, dtype)
    same = found == wanted.view(np.uint8)
    assert np.all(same | np.isnan(wanted.astype(np.float32)))
    assert np.array_equal(np.isnan(widen(found, dtype)), np.isnan(wanted.astype(np.float32)))


@pytest.mark.parametrize("dtype", TYPES)
def test_every_code_comes_back(dtype: str) -> None:
    codes = np.arange(256, dtype=np.uint8)
    values = widen(codes, dtype)
    kept = np.isfinite(values)
    assert np.array_equal(narrow(values, dtype)[kept], codes[kept])

"""The sums and spectra behind `verify`, by hand and against dense NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest

import lora_files as files
from loragraft.adapter.delta import slabs
from loragraft.verification.spectrum import optimal_error, singular_values
from loragraft.verification.tally import rounding_energy, tally_module


def test_bit_exact_share_by_hand() -> None:
    """Of 1 + 2⁻⁸, 1 + 3·2⁻⁸, 1 + 2⁻⁹ and 1 the ties go to even: 1, 1 + 2⁻⁶, 1, 1."""
    base = np.ones((1, 4), np.float32)
    delta = np.array([[2.0**-8, 3 * 2.0**-8, 2.0**-9, 0.0]], np.float32)
    tuned = np.array([[1.0, 1.0 + 2.0**-6, 1.0 + 2.0**-7, 1.0]], files.NUMPY_DTYPES["BF16"])
    tally = tally_module(base, tuned.view(np.uint16), "BF16", delta)
    assert tally.exact == 3
    assert tally.weight == 4.0
    assert tally.delta == 2.0**-12 + 2.0**-14
    assert tally.residual == 2.0**-16 + 2.0**-16 + (2.0**-7 - 2.0**-9) ** 2


@pytest.mark.parametrize(
    ("dtype", "values", "ulps"),
    [
        ("BF16", [1.0, -1.5, 2.0, 0.0], [2.0**-7, 2.0**-7, 2.0**-6, 2.0**-133]),
        ("F16", [1.0, -3.0, 2.0**-20, 0.0], [2.0**-10, 2.0**-9, 2.0**-24, 2.0**-24]),
        ("F32", [1.0, 100.0, 2.0**-140], [2.0**-23, 2.0**-17, 2.0**-149]),
    ],
)
def test_rounding_energy_by_hand(dtype: str, values: list[float], ulps: list[float]) -> None:
    expected = math.fsum(ulp**2 for ulp in ulps) / 12.0
    assert rounding_energy(np.array(values, np.float32), dtype) == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(70, 30), (30, 70), (1, 9), (9, 1), (12, 12)])
@pytest.mark.parametrize("decay", [0.0, -0.5, -2.0])
def test_exact_optimum_equals_dense_svd(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], decay: float
) -> None:
    # Slabs of 7 rows, so that blocks of the Gram matrix meet in every way.
    monkeypatch.setattr("loragraft.verification.spectrum._SLAB_BYTES", 4 * shape[1] * 7)
    rng = np.random.default_rng(5)
    small = min(shape)
    u, _ = np.linalg.qr(rng.standard_normal((shape[0], small)))
    v, _ = np.linalg.qr(rng.standard_normal((shape[1], small)))
    matrix = (u * np.arange(1.0, small + 1) ** decay) @ v.T
    values = singular_values(lambda start, stop: matrix[start:stop].copy(), shape)
    expected = np.linalg.svd(matrix, compute_uv=False)
    assert values == pytest.approx(expected, rel=1e-9, abs=1e-7)
    for rank in (1, 4, small):
        best = float(np.linalg.norm(expected[rank:]) / np.linalg.norm(expected))
        assert optimal_error(values, rank) == pytest.approx(best, rel=1e-9, abs=1e-7)


def test_zero_matrix_has_no_error() -> None:
    values = singular_values(lambda start, stop: np.zeros((stop - start, 4)), (6, 4))
    assert optimal_error(values, 2) == 0.0


def test_slabs_cover_every_row_once() -> None:
    assert list(slabs(5, 3, slab_bytes=24)) == [(0, 2), (2, 4), (4, 5)]
    assert list(slabs(2, 1000, slab_bytes=16)) == [(0, 1), (1, 2)]
    assert list(slabs(0, 3)) == []

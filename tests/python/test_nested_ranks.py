"""Residuals and optima of every rank up to the one computed, from one factorisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import native_tasks as nt
import spectra

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from loragraft import native

U32 = 2.0**-24
RANK = 12
#: Full decomposition; floats; bytes where the ISA has them.
SHAPES = ((60, 48), (200, 131), (300, 421))


def _direct(
    delta: NDArray[np.float64], result: native.ModuleResult, scaling: float
) -> NDArray[np.float64]:
    """Squared residuals of the leading columns and rows, each product and sum in double."""
    b, a = nt.factors(result, delta.shape)
    rest = delta.copy()
    squares = []
    for k in range(result.rank):
        rest = rest - scaling * np.outer(b[:, k], a[k])
        squares.append(float((rest**2).sum()))
    return np.array(squares)


def _check(
    result: native.ModuleResult, delta: NDArray[np.float64], rank: int, scaling: float = 1.0
) -> None:
    found = np.array(result.residual_squares)
    optima = np.array(result.optimal_squares)
    assert len(found) == len(optima) == rank
    assert found[-1] == result.residual_square
    assert optima[-1] == result.optimal_square
    size = float((delta**2).sum())
    expected = _direct(delta, result, scaling)
    # The last residual is the one that the core reports: of single-precision products, whose error
    # is a share of the norm (test_batch), or near a large one to 1e-6 of it (linalg/residual.hpp).
    slack = (2 * U32 * (rank + 2)) ** 2 * size
    last = 2 * np.sqrt(slack * expected[-1]) + slack + 2e-6 * expected[-1]
    assert abs(found[-1] - expected[-1]) <= last
    # What is cut off besides follows from the triplets: their energies are good to about 1e-6 of
    # themselves, to 1e-5 where bytes showed them (sides of 256 and more).
    cut = np.maximum(expected - expected[-1], 0.0)
    share = 1e-6 if min(delta.shape) < 256 else 1e-5
    assert (np.abs(found - expected) <= last + share * cut + slack).all()
    spectrum = np.linalg.svd(delta, compute_uv=False)
    least = np.array([float((spectrum[r:] ** 2).sum()) for r in range(1, rank + 1)])
    # The last is within 1.001 of the error, and no approximation is better than the best.
    assert (optima <= least * (1.001**2 + share) + last).all()
    assert (optima >= least * (1.0 - share) - last).all()


def _result(
    directory: Path, change: NDArray[np.float32], rank: int, **options: Any
) -> native.ModuleResult:
    paths = nt.write_pair(directory, np.zeros_like(change), change)
    task = nt.task(*paths, "w", rank, scaling=options.pop("scaling", 1.0))
    return nt.run([task], nested=True, **options)[0]


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", [name for name in spectra.NAMES if name != "zero"])
def test_prescribed_spectra(tmp_path: Path, name: str, shape: tuple[int, int], dtype: str) -> None:
    """Among them those of exactly the rank, and of less, where nothing is left out."""
    change = spectra.matrix(name, shape, RANK)
    result = _result(tmp_path, change, RANK, dtype=dtype)
    assert result.dtype == dtype
    _check(result, change.astype(np.float64), RANK)


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_stored_weights(tmp_path: Path, dtype: str) -> None:
    """A low-rank change under the rounding of bf16 weights; and a scaling."""
    base, tuned = nt.pair((310, 270), change=0.01)
    paths = nt.write_pair(tmp_path, base, tuned)
    for scaling in (1.0, 0.37, 16.0):
        task = nt.task(*paths, "w", 24, scaling=scaling)
        (result,) = nt.run([task], nested=True, dtype=dtype)
        _check(result, nt.delta(base, tuned), 24, scaling)


@pytest.mark.parametrize("size", [1e-12, 1e12])
def test_far_from_one(tmp_path: Path, size: float) -> None:
    change = spectra.matrix("k^-1", (200, 131), RANK, size)
    _check(_result(tmp_path, change, RANK, dtype="F32"), change.astype(np.float64), RANK)


def test_full_rank(tmp_path: Path) -> None:
    change = spectra.matrix("geometric .5", (70, 30), 30)
    _check(_result(tmp_path, change, 30, dtype="F32"), change.astype(np.float64), 30)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_factors_are_those_of_other_runs(tmp_path: Path, threads: int) -> None:
    """Asking for more changes nothing else, and the leading part is what is written of less."""
    base, tuned = nt.pair((300, 280))
    paths = nt.write_pair(tmp_path, base, tuned)
    (one,) = nt.run([nt.task(*paths, "w", 8)], nested=True, threads=threads)
    (other,) = nt.run([nt.task(*paths, "w", 8)])
    assert nt.fields(one) == nt.fields(other)
    assert len(one.residual_squares) == 8
    assert (other.residual_squares, other.optimal_squares) == ([], [])


def test_nothing_where_nothing_is_factored(tmp_path: Path) -> None:
    base, tuned = nt.pair((80, 50))
    paths = (
        nt.write(tmp_path / "a", {"w": base, "same": base}),
        nt.write(tmp_path / "b", {"w": tuned, "same": base}),
    )
    for result in nt.run([nt.task(*paths, "same", 4), nt.task(*paths, "w", 0)], nested=True):
        assert (result.residual_squares, result.optimal_squares) == ([], [])

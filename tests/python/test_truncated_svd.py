"""`loragraft.linalg.truncated_svd` against the Eckart–Young optimum, on prescribed spectra.

Tolerances. With u = eps/2 the unit roundoff of float32, a product of float32 matrices errs by about
sqrt(terms) u of the product's norm: rounding errors of a chain of additions walk at random (Higham
and Mary 2019, "A new approach to probabilistic rounding error analysis"), and a Frobenius norm
averages over many such walks. The kernels sum blocks of 256 terms and then the blocks. What the
decomposition adds to the error of the approximation, relative to ‖A‖, is therefore at most

    u [ sqrt(256 + terms/256)      the last product with A
        + 2 sqrt(l)                the rotations of both bases, l wide
        + 3 ]                      rounding of U, s and Vt

(a third of it, or less, is measured). Entries of UᵀU have as many roundings in the rotation, and
two more on either side.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import spectra
from loragraft.linalg import TruncatedSVD, truncated_svd

if TYPE_CHECKING:
    from numpy.typing import NDArray

U32 = spectra.EPS32 / 2
# An error 0.1 % above the optimum.
FACTOR = 1.001
SHAPES = [
    (1, 300), (300, 1), (16, 16), (65, 64), (100, 2000), (2000, 100), (1100, 300),
    (2500, 90),  # two groups of partial sums in the transposed product
    (90, 5000),  # three tiles side by side
]  # fmt: skip


def sketch_width(rank: int, oversampling: int = 8) -> int:
    return -(-(rank + oversampling) // 16) * 16


def rounding(shape: tuple[int, ...], rank: int) -> float:
    terms = 256 + max(shape) / 256
    return float(U32 * (np.sqrt(terms) + 2 * np.sqrt(sketch_width(rank)) + 3))


def check(a: NDArray[np.float32], svd: TruncatedSVD) -> None:
    rank = svd.s.size
    exact = np.linalg.svd(a.astype(np.float64), compute_uv=False)
    norm = float(np.linalg.norm(exact))
    optimum = float(np.linalg.norm(exact[rank:]))
    # Subnormal singular values are rounded to the spacing of the subnormals.
    slack = rounding(a.shape, rank) * norm + np.sqrt(rank) * 2.0**-149
    assert spectra.error(a, svd) <= FACTOR * optimum + slack
    check_values(svd.s.astype(np.float64), exact, optimum, slack)
    check_form(svd)


def check_values(
    values: NDArray[np.float64], exact: NDArray[np.float64], optimum: float, slack: float
) -> None:
    """Ritz values lie below the singular values, by what the error exceeds the optimum at most.

    error² - optimum² is the sum of s_i² - ritz_i², none of which is negative.
    """
    leading = exact[: values.size]
    assert np.all(values[:-1] >= values[1:])
    assert np.all(values <= leading + slack)
    excess = (FACTOR**2 - 1.0) * optimum**2
    assert np.all(values >= np.sqrt(np.maximum(leading**2 - excess, 0.0)) - slack)


def check_form(svd: TruncatedSVD) -> None:
    u, vt = svd.U.astype(np.float64), svd.Vt.astype(np.float64)
    rank = svd.s.size
    bound = U32 * (2 * np.sqrt(sketch_width(rank)) + 4)
    np.testing.assert_allclose(u.T @ u, np.eye(rank), rtol=0, atol=bound)
    np.testing.assert_allclose(vt @ vt.T, np.eye(rank), rtol=0, atol=bound)
    largest = u[np.argmax(np.abs(u), axis=0), np.arange(rank)]
    assert np.all(largest > 0.0)
    for part in (svd.U, svd.s, svd.Vt):
        assert part.dtype == np.float32
        assert np.isfinite(part).all()


def bytes_of(svd: TruncatedSVD) -> tuple[bytes, bytes, bytes]:
    return svd.U.tobytes(), svd.s.tobytes(), svd.Vt.tobytes()


@pytest.mark.parametrize("name", spectra.NAMES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_error_is_within_a_thousandth_of_the_optimum(shape: tuple[int, int], name: str) -> None:
    for rank in sorted({min(rank, *shape) for rank in (1, 4, 16, min(shape))}):
        a = spectra.matrix(name, shape, rank)
        svd = truncated_svd(a, rank)
        assert svd.U.shape == (shape[0], rank)
        assert svd.s.shape == (rank,)
        assert svd.Vt.shape == (rank, shape[1])
        check(a, svd)


@pytest.mark.parametrize("norm", [1e30, 1e-30])
@pytest.mark.parametrize("name", spectra.NAMES)
@pytest.mark.parametrize("shape", [(16, 16), (65, 64), (300, 40), (40, 3000)], ids=str)
def test_extreme_norms(shape: tuple[int, int], name: str, norm: float) -> None:
    for rank in (1, 4, 16):
        a = spectra.matrix(name, shape, rank, norm)
        check(a, truncated_svd(a, rank))


def test_extreme_entries_far_apart() -> None:
    """One entry near the largest float32 among ordinary ones, and a matrix of subnormals."""
    rng = np.random.default_rng(3)
    a = rng.standard_normal((200, 100)).astype(np.float32)
    a[17, 5] = 1e38
    check(a, truncated_svd(a, 2))
    tiny = (rng.standard_normal((200, 100)) * 1e-42).astype(np.float32)
    check(tiny, truncated_svd(tiny, 2))


def test_products_leave_the_range_of_float32_on_either_side() -> None:
    """A row of norm 3e38 meets a sketch whose columns are longer; subnormals lose their bits."""
    rng = np.random.default_rng(3)
    huge = (rng.standard_normal((200, 100)) * 1e30).astype(np.float32)
    row = rng.standard_normal(100)
    huge[7] = row * (3.2e38 / np.linalg.norm(row))
    for seed in range(60):
        check(huge, truncated_svd(huge, 2, seed=seed))
    tiny = spectra.matrix("exact rank", (200, 100), 4, norm=1e-38)
    check(tiny, truncated_svd(tiny, 4))


@pytest.mark.parametrize("name", ["k^-1/2", "geometric .9", "geometric .99", spectra.NOISE])
def test_every_sketch_is_good_enough(name: str) -> None:
    """Iteration must not stop too early by luck: slow spectra, many sketches."""
    for shape, rank in (((300, 200), 1), ((300, 200), 16), ((90, 700), 8)):
        a = spectra.matrix(name, shape, rank)
        seen = set()
        for seed in range(8):
            svd = truncated_svd(a, rank, seed=seed)
            check(a, svd)
            seen.add(bytes_of(svd))
        assert len(seen) == 8


@pytest.mark.parametrize("oversampling", [0, 1, 24, 2**64])
def test_oversampling(oversampling: int) -> None:
    a = spectra.matrix("k^-1/2", (200, 150), 16)
    check(a, truncated_svd(a, 16, oversampling=oversampling))


def test_power_iterations_are_honoured() -> None:
    """Each step finds more of a flat spectrum; none is far from done, many reach the optimum."""
    rank = 8
    a = spectra.matrix(spectra.NOISE, (400, 300), rank)
    steps = (0, 1, 2, 4, 64)
    errors = [spectra.error(a, truncated_svd(a, rank, power_iterations=p)) for p in steps]
    exact = np.linalg.svd(a.astype(np.float64), compute_uv=False)
    optimum = float(np.linalg.norm(exact[rank:]))
    assert all(more > fewer for more, fewer in pairwise(errors))
    assert errors[0] > FACTOR * optimum
    # 129 half steps, each by (s_17 / s_8)^2 = 0.85 or so.
    assert errors[-1] <= (1.0 + 1e-6) * optimum + rounding((400, 300), rank)


def test_bytes_do_not_depend_on_the_threads() -> None:
    for shape, rank in (((2500, 90), 4), ((5000, 120), 16), ((300, 5000), 16), ((40, 40), 4)):
        a = spectra.matrix("k^-1/2", shape, rank)
        results = {bytes_of(truncated_svd(a, rank, threads=threads)) for threads in (1, 2, 3, 7)}
        assert len(results) == 1


def test_a_batch_is_its_matrices_one_by_one() -> None:
    stack = np.stack([spectra.matrix(name, (120, 80), 4) for name in spectra.NAMES[:6]])
    stack = stack.reshape(2, 3, 120, 80)
    whole = truncated_svd(stack, 4, seed=5, threads=3)
    assert whole.U.shape == (2, 3, 120, 4)
    assert whole.s.shape == (2, 3, 4)
    assert whole.Vt.shape == (2, 3, 4, 80)
    for i, place in enumerate(np.ndindex(2, 3)):
        alone = truncated_svd(stack[place], 4, seed=5 + i)
        part = replace(whole, U=whole.U[place], s=whole.s[place], Vt=whole.Vt[place])
        assert bytes_of(part) == bytes_of(alone)


def test_seeds_wrap_around() -> None:
    a = spectra.matrix("k^-1", (100, 80), 4)
    batch = truncated_svd(np.stack([a, a]), 4, seed=2**64 - 1)
    assert batch.U[1].tobytes() == truncated_svd(a, 4, seed=0).U.tobytes()


@settings(max_examples=60, deadline=None)
@given(
    m=st.integers(1, 140),
    n=st.integers(1, 140),
    share=st.floats(0.0, 1.0),
    decay=st.floats(0.0, 3.0),
    exponent=st.integers(-20, 20),
    seed=st.integers(0, 2**64 - 1),
)
def test_any_shape(m: int, n: int, share: float, decay: float, exponent: int, seed: int) -> None:
    rank = 1 + round(share * (min(m, n) - 1))
    rng = np.random.default_rng((m, n))
    columns = np.arange(1.0, n + 1) ** -decay
    a = (rng.standard_normal((m, n)) * columns * 2.0**exponent).astype(np.float32)
    check(a, truncated_svd(a, rank, seed=seed))

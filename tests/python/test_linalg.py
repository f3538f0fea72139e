"""`loragraft.linalg`: projection and similarities against float64 NumPy."""

from __future__ import annotations

import doctest
import importlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loragraft import linalg
from loragraft.errors import UsageError
from spectra import normal, orthonormal

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

U32 = 2.0**-24


def wide(array: NDArray[np.float32]) -> NDArray[np.float64]:
    return array.astype(np.float64)


def transposed(array: NDArray[Any]) -> NDArray[Any]:
    return np.swapaxes(array, -1, -2)


def project_reference(delta: Any, u: Any, v: Any) -> NDArray[np.float64]:
    left, right = wide(u), wide(v)
    core: NDArray[np.float64] = transposed(left) @ wide(delta) @ right
    projected: NDArray[np.float64] = left @ core @ transposed(right)
    return projected


def projection_bound(m: int, n: int, p: int, q: int) -> float:
    """Of ‖error‖ / ‖ΔW‖: four float32 products, one after the other.

    A product that sums k terms errs by at most k u |X| |Y| (Higham, "Accuracy and stability",
    section 3.5), and ‖ |X| ‖ ≤ √p for a basis X of p columns.
    """
    return U32 * float(m * p**0.5 + n * q**0.5 + q**1.5 + p**1.5)


@pytest.mark.parametrize(
    ("m", "n", "p", "q"),
    [
        (1, 1, 1, 1),
        (1, 30, 1, 4),
        (30, 1, 4, 1),
        (64, 64, 64, 64),
        (300, 70, 16, 9),
        (70, 300, 5, 128),
    ],
)
def test_project_dense(m: int, n: int, p: int, q: int) -> None:
    delta, u, v = normal(m, n), orthonormal(m, p, seed=1), orthonormal(n, q, seed=2)
    result = linalg.project(delta, u, v)
    assert result.dtype == np.float32
    assert result.shape == (m, n)
    difference = np.linalg.norm(result - project_reference(delta, u, v))
    assert difference <= projection_bound(m, n, p, q) * np.linalg.norm(delta)


@pytest.mark.parametrize(("m", "n", "r"), [(1, 1, 1), (300, 70, 8), (70, 300, 1), (40, 30, 30)])
def test_project_factors(m: int, n: int, r: int) -> None:
    p, q = min(m, 12), min(n, 20)
    b, a = normal(m, r), normal(r, n, seed=1)
    u, v = orthonormal(m, p, seed=2), orthonormal(n, q, seed=3)
    left, right = linalg.project((b, a), u, v)
    assert left.dtype == right.dtype == np.float32
    assert left.shape == b.shape
    assert right.shape == a.shape
    expected = project_reference(wide(b) @ wide(a), u, v)
    scale = float(np.linalg.norm(b)) * float(np.linalg.norm(a))
    difference = np.linalg.norm(wide(left) @ wide(right) - expected)
    assert difference <= 2 * projection_bound(m, n, p, q) * scale


def test_project_keeps_what_lies_inside_and_drops_the_rest() -> None:
    basis = orthonormal(50, 30, seed=4)
    u, other, v = basis[:, :10], basis[:, 10:], orthonormal(40, 6, seed=5)
    core = normal(10, 6)
    inside = (wide(u) @ core @ wide(v).T).astype(np.float32)
    outside = (wide(other) @ normal(20, 40)).astype(np.float32)
    bound = projection_bound(50, 40, 10, 6) + U32
    assert np.linalg.norm(linalg.project(inside, u, v) - inside) <= bound * np.linalg.norm(inside)
    assert np.linalg.norm(linalg.project(outside, u, v)) <= bound * np.linalg.norm(outside)


def test_project_batches_broadcast() -> None:
    delta = normal(2, 3, 20, 15)
    u, v = orthonormal(3, 20, 4, seed=1), orthonormal(15, 5, seed=2)
    result = linalg.project(delta, u, v, threads=2)
    assert result.shape == delta.shape
    for i, j in np.ndindex(2, 3):
        assert result[i, j].tobytes() == linalg.project(delta[i, j], u[j], v).tobytes()
    b, a = normal(2, 1, 20, 4), normal(3, 4, 15)
    left, right = linalg.project((b, a), u, v)
    assert left.shape == (2, 3, 20, 4)
    assert right.shape == (2, 3, 4, 15)
    alone = linalg.project((b[1, 0], a[2]), u[2], v)
    assert (left[1, 2].tobytes(), right[1, 2].tobytes()) == tuple(x.tobytes() for x in alone)


def test_an_empty_batch_gives_an_empty_batch() -> None:
    u, v = orthonormal(6, 2), orthonormal(5, 2)
    assert linalg.project(np.empty((0, 6, 5), np.float32), u, v).shape == (0, 6, 5)
    assert linalg.truncated_svd(np.empty((0, 6, 5), np.float32), 2).U.shape == (0, 6, 2)
    assert np.shape(linalg.subspace_similarity(np.empty((0, 6, 2), np.float32), u)) == (0,)
    assert np.shape(linalg.frobenius_similarity(np.empty((0, 6, 2), np.float32), u)) == (0,)


def test_subspace_similarity() -> None:
    u1, u2 = orthonormal(90, 7), orthonormal(90, 20, seed=1)
    cosines = wide(u1).T @ wide(u2)
    value = linalg.subspace_similarity(u1, u2)
    assert isinstance(value, float)
    # Products and sums in double precision on both sides.
    assert value == pytest.approx(float((cosines**2).sum()) / 7, rel=1e-12)
    assert linalg.subspace_similarity(u2, u1) == pytest.approx(value, rel=1e-12)
    # A basis rounded to float32: each column's square is known to 2 u.
    assert linalg.subspace_similarity(u1, u1) == pytest.approx(1.0, abs=4 * U32)
    assert linalg.subspace_similarity(u2[:, :5], u2[:, 5:]) <= (2 * U32) ** 2 * 75
    batch = linalg.subspace_similarity(np.stack([u1, u1]), np.stack([u2[:, :7], u1]))
    assert isinstance(batch, np.ndarray)
    assert batch.dtype == np.float64
    assert batch[1] == linalg.subspace_similarity(u1, u1)
    assert batch[0] == linalg.subspace_similarity(u1, u2[:, :7])


def test_chance_is_the_mean_of_random_subspaces() -> None:
    m, p, q, draws = 40, 3, 8, 400
    first = np.stack([orthonormal(m, p, seed=i) for i in range(draws)])
    second = np.stack([orthonormal(m, q, seed=draws + i) for i in range(draws)])
    values = np.asarray(linalg.subspace_similarity(first, second))
    chance = linalg.chance_similarity(m, p, q)
    assert chance == 8 / 40
    # Five standard errors.
    assert abs(values.mean() - chance) <= 5 * values.std() / draws**0.5


def cosine(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    return float((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()))


@pytest.mark.parametrize("scale", [1.0, 1e30, 1e-30])
def test_frobenius_similarity_in_every_form(scale: float) -> None:
    m, n = 80, 50
    b1, a1 = normal(m, 4) * np.float32(scale), normal(4, n, seed=1)
    b2, a2 = (b1 + normal(m, 4, seed=2) * np.float32(scale))[:, :3], normal(3, n, seed=3) + a1[:3]
    dense = wide(b1) @ wide(a1)
    other = wide(b2) @ wide(a2)
    x, y = dense.astype(np.float32), other.astype(np.float32)
    # Only the rounding of the dense operands to float32 separates the forms.
    assert linalg.frobenius_similarity(x, y) == pytest.approx(cosine(wide(x), wide(y)), abs=1e-13)
    assert linalg.frobenius_similarity((b1, a1), (b2, a2)) == pytest.approx(
        cosine(dense, other), abs=1e-12
    )
    assert linalg.frobenius_similarity(x, (b2, a2)) == pytest.approx(
        cosine(wide(x), other), abs=1e-12
    )
    assert linalg.frobenius_similarity((b1, a1), y) == pytest.approx(
        cosine(dense, wide(y)), abs=1e-12
    )
    assert linalg.frobenius_similarity(x, -x) == pytest.approx(-1.0, abs=2.0**-50)
    assert linalg.frobenius_similarity((b1, a1), (-b1, a1)) == pytest.approx(-1.0, abs=1e-12)


def test_frobenius_batches() -> None:
    b, a, dense = normal(3, 20, 2), normal(2, 12), normal(2, 1, 20, 12)
    values = linalg.frobenius_similarity(dense, (b, a), threads=3)
    assert isinstance(values, np.ndarray)
    assert values.shape == (2, 3)
    assert values[1, 2] == linalg.frobenius_similarity(dense[1, 0], (b[2], a))


@settings(max_examples=50, deadline=None)
@given(m=st.integers(1, 60), n=st.integers(1, 60), r=st.integers(1, 12), seed=st.integers(0, 99))
def test_the_forms_agree_on_any_shape(m: int, n: int, r: int, seed: int) -> None:
    b, a, dense = normal(m, r, seed=seed), normal(r, n, seed=seed), normal(m, n, seed=seed + 1)
    expected = cosine(wide(b) @ wide(a), wide(dense))
    assert linalg.frobenius_similarity((b, a), dense) == pytest.approx(expected, abs=1e-12)


def test_bytes_do_not_depend_on_the_threads() -> None:
    delta, u, v = normal(5, 90, 60), orthonormal(90, 8), orthonormal(60, 9)
    calls: list[Callable[[int], Any]] = [
        lambda threads: linalg.project(delta, u, v, threads=threads),
        lambda threads: linalg.subspace_similarity(delta[:, :, :9], u, threads=threads),
        lambda threads: linalg.frobenius_similarity(delta, delta[::-1], threads=threads),
    ]
    for call in calls:
        assert len({np.asarray(call(threads)).tobytes() for threads in (1, 2, 3, 7)}) == 1


def test_zero_norm_is_refused() -> None:
    one, zero = normal(4, 3), np.zeros((4, 3), np.float32)
    for x, y, name in ((zero, one, "X"), (one, zero, "Y")):
        with pytest.raises(UsageError, match=f"^{name} has norm zero"):
            linalg.frobenius_similarity(x, y)
    with pytest.raises(UsageError, match=r"^Y \(matrix 1 of the batch\) has norm zero"):
        linalg.frobenius_similarity(one, np.stack([one, zero]))
    # Factors that cancel: neither is zero, their product is, and rounding must not hide it.
    half = normal(3, 5)
    b = np.concatenate([normal(4, 3, seed=1) / 3] * 2, axis=1)
    a = np.concatenate([half, -half], axis=0)
    with pytest.raises(UsageError, match="norm zero to working precision"):
        linalg.frobenius_similarity((b, a), normal(4, 5))


@pytest.mark.parametrize("module", ["svd", "projection", "similarity"])
def test_examples_in_the_documentation(module: str) -> None:
    outcome = doctest.testmod(importlib.import_module(f"loragraft.linalg.{module}"))
    assert outcome.attempted > 0
    assert outcome.failed == 0

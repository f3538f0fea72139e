"""Leading subspaces of stored weights, through the Gram matrix of the smaller side.

Tolerances. Agreement with the exact subspace: at least 1 - 0.015 (block Lanczos) - 0.01 (single
precision) wherever the singular values at the rank differ at all. Energy: directions of close
singular values that changed places cost 0.1 % as in the iteration; beyond that bytes turn away a
share of 0.002 at the most, on matrices of low rank too. Rounding of float32 as in
test_truncated_svd.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest

import native_tasks as nt
import spectra
from loragraft import native
from loragraft.errors import NonFiniteError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

RANK = 24
AGREEMENT = 1.0 - 0.015 - 0.01
BYTES = 0.002
#: Full decomposition, all eigenvectors of floats, of bytes, and block Lanczos; both ways round.
SHAPES = [(60, 64), (200, 500), (500, 200), (300, 900), (900, 300), (700, 1500), (1500, 700),
          (690, 690)]  # fmt: skip


def stored(directory: Path, values: Array) -> native.StoredMatrix:
    return nt.stored(nt.write(directory / "w.safetensors", {"w": values}), "w")


def find(
    matrix: native.StoredMatrix, rank: int = RANK, *, seed: int = 1, threads: int = 1
) -> tuple[Array, Array, Array, float]:
    return native.leading_subspaces(matrix, rank, None, seed, threads)


def agreement(found: Array, exact: Array) -> float:
    return float(np.square(exact.T @ found.astype(np.float64)).sum() / exact.shape[1])


def check(values: Array, found: tuple[Array, Array, Array, float], rank: int) -> None:
    u, s, v, norm = found
    a = values.astype(np.float64)
    exact_u, exact, exact_vt = np.linalg.svd(a, full_matrices=False)
    assert norm == pytest.approx(np.linalg.norm(a), rel=1e-12)
    width = -(-(rank + 8) // 16) * 16
    slack = spectra.EPS32 / 2 * (np.sqrt(256 + max(a.shape) / 256) + 2 * np.sqrt(width) + 3) * norm
    error = np.linalg.norm(a - (u.astype(np.float64) * s) @ v.T.astype(np.float64))
    turned = BYTES * np.square(exact[:rank]).sum()
    assert error**2 <= (1.001 * np.linalg.norm(exact[rank:]) + slack) ** 2 + turned
    for basis in (u, v):
        wide = basis.astype(np.float64)
        # Quotients by singular values down to a thirtieth of the first.
        bound = 30 * spectra.EPS32 / 2 * (2 * np.sqrt(width) + 4)
        np.testing.assert_allclose(wide.T @ wide, np.eye(rank), rtol=0, atol=bound)
    assert np.all(u[np.abs(u).argmax(axis=0), range(rank)] > 0.0)
    if exact[rank - 1] > max(1.001 * exact[rank], 1e-5 * exact[0]):
        assert agreement(u, exact_u[:, :rank]) >= AGREEMENT
        assert agreement(v, exact_vt[:rank].T) >= AGREEMENT


@pytest.mark.parametrize("name", [name for name in spectra.NAMES if name != "zero"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_prescribed_spectra(tmp_path: Path, shape: tuple[int, int], name: str) -> None:
    values = spectra.matrix(name, shape, RANK)
    check(values, find(stored(tmp_path, values)), RANK)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
@pytest.mark.parametrize("shape", [(1100, 700), (700, 1100)], ids=str)
def test_stored_types_and_rows_of_other_sizes(
    tmp_path: Path, shape: tuple[int, int], dtype: Any
) -> None:
    """Rows and columns that differ by orders, and outliers: what bytes are bad at."""
    rng = np.random.default_rng(3)
    values = spectra.normal(*shape) * np.exp(rng.standard_normal((shape[0], 1)))
    values *= np.exp(rng.standard_normal(shape[1]))
    values[3, 5] = 30.0 * np.abs(values).max()
    values = (values / 100).astype(dtype)
    check(values.astype(np.float32), find(stored(tmp_path, values)), RANK)


@pytest.mark.parametrize("shape", [(2000, 900), (900, 2000)], ids=str)
def test_noise_at_a_rank_of_many(tmp_path: Path, shape: tuple[int, int]) -> None:
    """The flattest spectrum there is; subspace iteration agrees to 0.8 only."""
    values = spectra.matrix(spectra.NOISE, shape, 128)
    check(values, find(stored(tmp_path, values), 128), 128)


@pytest.mark.parametrize("norm", [1e30, 1e-30])
def test_norms_far_from_one(tmp_path: Path, norm: float) -> None:
    values = spectra.matrix("k^-1/2", (300, 700), RANK, norm)
    check(values, find(stored(tmp_path, values)), RANK)


def test_zero_has_norm_zero(tmp_path: Path) -> None:
    assert find(stored(tmp_path, np.zeros((300, 700), np.float32)))[3] == 0.0


@pytest.mark.parametrize("shape", [(900, 300), (700, 1500), (1500, 700)], ids=str)
def test_threads_and_seeds(tmp_path: Path, shape: tuple[int, int]) -> None:
    matrix = stored(tmp_path, spectra.matrix("k^-1/2", shape, RANK).astype(ml_dtypes.bfloat16))
    first = find(matrix)
    for threads in (2, 3):
        for one, other in zip(first[:3], find(matrix, threads=threads)[:3], strict=True):
            assert one.tobytes() == other.tobytes()
    if min(shape) > 640:
        assert first[0].tobytes() != find(matrix, seed=2)[0].tobytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shape", [(40, 30), (300, 700), (700, 300), (800, 700)], ids=str)
def test_what_is_not_finite_is_refused(tmp_path: Path, shape: tuple[int, int], bad: float) -> None:
    values = spectra.normal(*shape)
    values[-1, -1] = bad
    matrix = stored(tmp_path, values)
    with pytest.raises(NonFiniteError):
        find(matrix)
    with pytest.raises(NonFiniteError):
        native.frobenius_norm(matrix, 1)
    for columns in (False, True):
        length = shape[0] if columns else shape[1]
        with pytest.raises(NonFiniteError):
            native.unit_lines_times(
                matrix, columns, np.empty(0, np.float32), np.ones((length, 3), np.float32), 1
            )


_SCRIPT = """
import sys
import numpy as np
import native_tasks as nt
from loragraft import native
from pathlib import Path
u, s, v, norm = native.leading_subspaces(nt.stored(Path(sys.argv[1]), "w"), 24, None, 1, 1)
print(native.isa(), u.tobytes().hex(), s.tobytes().hex(), v.tobytes().hex(), norm)
"""


@pytest.mark.parametrize("isa", native.available_isas())
@pytest.mark.parametrize("shape", [(300, 701), (1100, 650)], ids=str)
def test_every_isa(tmp_path: Path, shape: tuple[int, int], isa: str) -> None:
    values = spectra.matrix("k^-1/2", shape, RANK)
    path = nt.write(tmp_path / "w.safetensors", {"w": values})
    environment = os.environ | {"LORAGRAFT_ISA": isa, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", _SCRIPT, str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    name, *parts, norm = done.stdout.split()
    assert name == isa
    u, s, v = (np.frombuffer(bytes.fromhex(part), np.float32) for part in parts)
    check(values, (u.reshape(-1, RANK), s, v.reshape(-1, RANK), float(norm)), RANK)


@pytest.mark.parametrize("gained", [False, True])
@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("shape", [(70, 50), (1500, 800)], ids=str)
def test_unit_lines(tmp_path: Path, shape: tuple[int, int], columns: bool, gained: bool) -> None:
    values = spectra.normal(*shape).astype(ml_dtypes.bfloat16)
    (values.T if columns else values)[7] = 0.0
    lines = values.astype(np.float64)
    lines = lines.T if columns else lines
    rng = np.random.default_rng(5)
    gain = rng.uniform(0.5, 2.0, lines.shape[1]).astype(np.float32) if gained else np.empty(0, "f4")
    lines = lines * gain.astype(np.float64) if gained else lines
    right = spectra.normal(lines.shape[1], 40, seed=2)
    norms = np.linalg.norm(lines, axis=1, keepdims=True)
    exact = (lines / np.where(norms > 0.0, norms, 1.0)) @ right.astype(np.float64)
    matrix = stored(tmp_path, values)
    found = native.unit_lines_times(matrix, columns, gain, right, 1)
    again = native.unit_lines_times(matrix, columns, gain, right, 3)
    assert found.tobytes() == again.tobytes()
    assert not found[7].any()
    # Floats: a random walk of roundings. Bytes: entries of both sides are off by up to half of a
    # 127th of the largest beside them, evenly, here at most 5 standard deviations; gains of 0.5 to
    # 2 make that as much as 4 times more. Six standard deviations of the sum.
    small = values.size < 1 << 20
    each = spectra.EPS32 * 16 if small else 4 * np.sqrt(2) * 5 / 127 / 2 / np.sqrt(3)
    assert np.abs(found - exact).max() <= 6 * each


@pytest.mark.parametrize(("m", "n", "d"), [(30, 50, 7), (700, 900, 64), (900, 700, 100)])
def test_best_products(m: int, n: int, d: int) -> None:
    a, b = spectra.normal(m, d), spectra.normal(n, d, seed=1)
    values, places = native.best_products(a, b, 5, 1)
    again = native.best_products(a, b, 5, 2)
    assert (values.tobytes(), places.tobytes()) == tuple(part.tobytes() for part in again)
    exact = a.astype(np.float64) @ b.T.astype(np.float64)
    assert (values[:, :-1] >= values[:, 1:]).all()
    assert all(len(set(row)) == 5 for row in places.tolist())
    # In bytes each factor is off by at most half a 127th of the row's peak, below 5 here.
    floats = m * n * d < 1 << 24
    each = spectra.EPS32 * 16 if floats else np.sqrt(2 * d) * 5 / 127 / 2 / np.sqrt(3)
    off = 6 * each * (np.sqrt(d) if floats else 1.0)
    assert np.abs(np.take_along_axis(exact, places, axis=1) - values).max() <= off
    best = -np.sort(-exact, axis=1)[:, :5]
    assert np.abs(best - values).max() <= off


def test_equal_products_take_the_first_rows() -> None:
    values, places = native.best_products(np.ones((2, 4), "f4"), np.ones((9, 4), "f4"), 3, 1)
    assert (values == 4.0).all()
    assert places.tolist() == [[0, 1, 2]] * 2


def test_shapes_that_do_not_fit(tmp_path: Path) -> None:
    a = np.ones((3, 4), np.float32)
    for b, count in ((np.ones((3, 5), np.float32), 1), (a, 4), (a, 0)):
        with pytest.raises(UsageError, match="best products"):
            native.best_products(a, b, count, 1)
    matrix = stored(tmp_path, a)
    with pytest.raises(UsageError, match="unit lines"):
        native.unit_lines_times(matrix, True, np.empty(0, np.float32), np.ones((4, 2), "f4"), 1)
    with pytest.raises(UsageError, match="rank 4"):
        find(matrix, 4)

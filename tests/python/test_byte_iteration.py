"""Subspace iteration in byte arithmetic: as good as in floats, on every kind of matrix.

Matrices whose smaller side is 256 or more take this path where the ISA has integer products.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import native_tasks as nt
import spectra
from loragraft import native
from loragraft.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

U32 = 2.0**-24
SHAPES = ((256, 256), (257, 1001), (1000, 259), (300, 2111), (2111, 300))
RANK = 16


def _changes(shape: tuple[int, int]) -> dict[str, NDArray[np.float32]]:
    """What a fine-tune might do to weights, beyond the prescribed spectra."""
    rng = np.random.default_rng((3, *shape))
    noise = rng.standard_normal(shape).astype(np.float32)
    row_scales = 10.0 ** rng.uniform(-6, 3, (shape[0], 1))
    low = rng.standard_normal((shape[0], 4)) @ rng.standard_normal((4, shape[1]))
    one_row, diagonal = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    one_row[shape[0] // 3] = noise[0]
    np.fill_diagonal(diagonal, 1.0 / np.arange(1, min(shape) + 1))
    outlier, column = noise.copy(), noise.copy()
    outlier[5, 7] = 1e4
    column[:, 11] *= 300.0
    return {
        "rows of all sizes": (noise * row_scales).astype(np.float32),
        "low rank and a little noise": (low + 1e-3 * noise).astype(np.float32),
        "one row": one_row,
        "diagonal": diagonal,
        "sparse": np.where(rng.random(shape) < 0.01, noise, 0).astype(np.float32),
        "an outlier": outlier,
        "a large column": column,
        "heavy tails": rng.standard_cauchy(shape).astype(np.float32),
        "huge": noise * np.float32(1e30),
        "tiny": noise * np.float32(1e-30),
    }


def _few(shape: tuple[int, int], count: int, *, axis: int) -> NDArray[np.float32]:
    """A change of some rows (axis 0) or columns (axis 1) alone."""
    rng = np.random.default_rng((5, count, *shape))
    made = np.zeros(shape, np.float32)
    chosen = rng.choice(shape[axis], count, replace=False)
    index = (chosen, slice(None)) if axis == 0 else (slice(None), chosen)
    made[index] = rng.standard_normal(made[index].shape)
    return made


def _spikes(shape: tuple[int, int], rows: int) -> NDArray[np.float32]:
    """Some rows of unit noise with one large entry each, over little noise elsewhere."""
    rng = np.random.default_rng((6, rows, *shape))
    made = 0.02 * rng.standard_normal(shape)
    made[:rows] = rng.standard_normal((rows, shape[1]))
    made[np.arange(rows), rng.choice(shape[1], rows, replace=False)] = 30.0
    return made.astype(np.float32)


def _long_tail(shape: tuple[int, int]) -> NDArray[np.float32]:
    """Singular values k^-1/2 as far as 32, in noise of a tenth of their norm."""
    rng = np.random.default_rng(1)
    left, _ = np.linalg.qr(rng.standard_normal((shape[0], 32)))
    right, _ = np.linalg.qr(rng.standard_normal((shape[1], 32)))
    change = (left * np.arange(1, 33) ** -0.5) @ right.T
    noise = rng.standard_normal(shape)
    change += 0.1 * noise * np.linalg.norm(change) / np.linalg.norm(noise)
    return change.astype(np.float32)


def _check(result: native.ModuleResult, change: NDArray[np.float32], rank: int = RANK) -> None:
    """The factors, written in fp32, are within 1.001 of the optimum, and the figures are true."""
    delta = change.astype(np.float64)
    size = float(np.linalg.norm(delta))
    b, a = nt.factors(result, change.shape)
    written = float(np.linalg.norm(delta - b @ a))
    spectrum = np.linalg.svd(delta, compute_uv=False)
    optimum = float(np.linalg.norm(spectrum[rank:]))
    # Singular triplets in single precision, and the products of the direct residual.
    slack = 45 * U32 * size
    assert written <= 1.001 * optimum + slack
    # Where much is left out, to 1e-6 of it; else the direct sum's products are the limit.
    allowed = 1e-6 * written if written > 0.3 * size else slack
    assert abs(result.residual_square**0.5 - written) <= allowed
    assert result.delta_square == pytest.approx(size**2, rel=1e-12)
    found = np.array(result.singular_values)
    # No projection has larger singular values than the matrix. Both bytes round a row to 1 / 16256
    # of its peak at the coarsest, and Weyl's inequality passes the rounding's norm on.
    peaks = np.abs(delta).max(axis=1)
    rounding = float(np.sqrt((peaks**2).sum() * change.shape[1] / 12.0)) / 16256.0
    assert (found <= spectrum[:rank] + rounding + slack).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", spectra.NAMES)
def test_prescribed_spectra(tmp_path: Path, name: str, shape: tuple[int, int]) -> None:
    change = spectra.matrix(name, shape, RANK)
    paths = nt.write_pair(tmp_path, np.zeros(shape, np.float32), change)
    (result,) = nt.run([nt.task(*paths, "w", RANK)], dtype="F32")
    if name == "zero":
        assert result.unchanged
    else:
        _check(result, change)


@pytest.mark.parametrize("shape", [(300, 701), (701, 300)], ids=str)
@pytest.mark.parametrize("name", _changes((12, 12)))
def test_odd_changes(tmp_path: Path, name: str, shape: tuple[int, int]) -> None:
    change = _changes(shape)[name]
    paths = nt.write_pair(tmp_path, np.zeros(shape, np.float32), change)
    (result,) = nt.run([nt.task(*paths, "w", RANK)], dtype="F32")
    _check(result, change)


@pytest.mark.parametrize("rank", [1, 4, 16])
@pytest.mark.parametrize("count", [2, 10, 20, 40])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("key", [0, 1])
def test_few_rows_or_columns(tmp_path: Path, axis: int, count: int, rank: int, key: int) -> None:
    """A sketch wider than the change has dependent columns; the tail is short and flat."""
    change = _few((700, 400), count, axis=axis)
    paths = nt.write_pair(tmp_path, np.zeros_like(change), change)
    (result,) = nt.run([nt.task(*paths, "w", rank, key=key)], dtype="F32")
    _check(result, change, rank)


@pytest.mark.parametrize("shape", [(256, 256), (1000, 257), (257, 1000)], ids=str)
@pytest.mark.parametrize(("rows", "rank"), [(16, 16), (40, 64), (4, 4)])
def test_spikes(tmp_path: Path, shape: tuple[int, int], rows: int, rank: int) -> None:
    """Rows whose units differ by orders of magnitude."""
    change = _spikes(shape, rows)
    paths = nt.write_pair(tmp_path, np.zeros_like(change), change)
    (result,) = nt.run([nt.task(*paths, "w", rank)], dtype="F32")
    _check(result, change, rank)


@pytest.mark.parametrize("rank", [1, 4, 64])
@pytest.mark.parametrize("what", ["row", "column", "entry"])
def test_one_of_another_size(tmp_path: Path, what: str, rank: int) -> None:
    change = np.random.default_rng(8).standard_normal((300, 500)).astype(np.float32)
    where: Any = {"row": (9, slice(None)), "column": (slice(None), 9), "entry": (9, 9)}[what]
    change[where] *= 1000.0 if what == "entry" else 100.0
    paths = nt.write_pair(tmp_path, np.zeros_like(change), change)
    (result,) = nt.run([nt.task(*paths, "w", rank)], dtype="F32")
    _check(result, change, rank)


@pytest.mark.parametrize("dtype", nt.MANTISSA)
def test_stored_dtypes(tmp_path: Path, dtype: str) -> None:
    """Differences of rounded weights, which powers of two split almost exactly."""
    base, tuned = nt.pair((500, 700), dtype, dtype, change=0.01)
    (result,) = nt.run([nt.task(*nt.write_pair(tmp_path, base, tuned), "w", RANK)], dtype="F32")
    _check(result, nt.delta(base, tuned).astype(np.float32))


@pytest.mark.parametrize("rank", [1, 15, 17, 100])
def test_ranks(tmp_path: Path, rank: int) -> None:
    change = spectra.matrix("k^-1/2", (400, 600), rank)
    paths = nt.write_pair(tmp_path, np.zeros_like(change), change)
    (result,) = nt.run([nt.task(*paths, "w", rank)], dtype="F32")
    b, a = nt.factors(result, change.shape)
    delta = change.astype(np.float64)
    spectrum = np.linalg.svd(delta, compute_uv=False)
    assert np.linalg.norm(delta - b @ a) <= 1.001 * np.linalg.norm(spectrum[rank:])


def test_agrees_with_floats(tmp_path: Path) -> None:
    """The float path is the referee: the same subspace as far as the spectrum tells it apart."""
    change = spectra.matrix("step at the rank", (600, 900), RANK)
    task = nt.task(*nt.write_pair(tmp_path, np.zeros_like(change), change), "w", RANK)
    (one,), (other,) = (nt.run([task], dtype="F32", arithmetic=a) for a in ("auto", "floats"))
    products = [np.matmul(*nt.factors(result, change.shape)) for result in (one, other)]
    size = float(np.linalg.norm(change))
    # Both captured the step to 1e-3 of what it leaves out, which is 1e-2 of a singular value.
    assert np.linalg.norm(products[0] - products[1]) <= 2e-3 * size
    assert one.singular_values == pytest.approx(other.singular_values, rel=1e-5)


def test_neither_threads_nor_memory_change_the_bytes(tmp_path: Path) -> None:
    """Matrices that do not fit into the workspace are formed again, and come out the same."""
    # 11 chunks of 252 rows; one chunk of 1,001 columns and its padding takes 537 kB.
    base, tuned = nt.pair((2600, 1001))
    paths = nt.write_pair(tmp_path, base, tuned)
    found = {
        nt.fields(nt.run([nt.task(*paths, "w", RANK, io=io)], threads=threads, workspace=space)[0])
        for threads, space, io in (
            (1, None, "mmap"),
            (2, None, "mmap"),
            (5, 0, "mmap"),
            (1, 0, "pread"),
            (2, 1_500_000, "mmap"),
            (3, 1_100_000, "pread"),
        )
    }
    assert len(found) == 1


_SCRIPT = """
import sys
from pathlib import Path
import native_tasks as nt
from loragraft import native
(result,) = nt.run([nt.task(Path(sys.argv[1]), Path(sys.argv[2]), "w", 16)], dtype="F32")
print(native.isa(), result.lora_a.hex(), result.lora_b.hex())
"""


@pytest.mark.parametrize("isa", native.available_isas())
def test_every_isa(tmp_path: Path, isa: str) -> None:
    """The choice is made once in a process, hence one for each."""
    change = spectra.matrix("k^-1/2", (300, 701), RANK)
    paths = nt.write_pair(tmp_path, np.zeros_like(change), change)
    environment = os.environ | {"LORAGRAFT_ISA": isa, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", _SCRIPT, *map(str, paths)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    name, a, b = done.stdout.split()
    assert name == isa
    right = np.frombuffer(bytes.fromhex(a), np.float32).reshape(RANK, -1).astype(np.float64)
    left = np.frombuffer(bytes.fromhex(b), np.float32).reshape(-1, RANK).astype(np.float64)
    delta = change.astype(np.float64)
    optimum = np.linalg.norm(np.linalg.svd(delta, compute_uv=False)[RANK:])
    assert np.linalg.norm(delta - left @ right) <= 1.001 * optimum


def test_unknown_arithmetic(tmp_path: Path) -> None:
    paths = nt.write_pair(tmp_path, *nt.pair((8, 8)))
    with pytest.raises(UsageError, match="expected auto or floats"):
        nt.run([nt.task(*paths, "w")], arithmetic="doubles")


@pytest.mark.parametrize("shape", [(256, 256), (576, 576), (576, 1536)], ids=str)
def test_a_direction_that_arrives_late(tmp_path: Path, shape: tuple[int, int]) -> None:
    """Of 60 sketches some hardly see one direction: small gains do not yet mean settled."""
    change = _long_tail(shape)
    paths = nt.write_pair(tmp_path, np.zeros_like(change), change)
    results = nt.run([nt.task(*paths, "w", RANK, key=key) for key in range(60)], dtype="F32")
    spectrum = np.linalg.svd(change.astype(np.float64), compute_uv=False)
    optimum = float(np.linalg.norm(spectrum[RANK:]))
    slack = 45 * U32 * float(np.linalg.norm(spectrum))
    assert max(result.residual_square**0.5 for result in results) <= 1.001 * optimum + slack

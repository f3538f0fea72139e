"""A residual holds whatever the order in which another machine sums."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

import loragraft
from lora_files import Q0, write_adapter, write_checkpoint
from loragraft.adapter.delta import Delta
from loragraft.errors import MismatchError
from lossless_files import Lossless, check_identical, patched, residual_of, write_pair

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Product = Callable[[Delta, int, int], NDArray[np.float32]]

ROWS = Delta.rows
UNIT = 2.0**-24


def in_float64(delta: Delta, start: int, stop: int) -> NDArray[np.float32]:
    exact = delta.left[start:stop].astype(np.float64) @ delta.right.astype(np.float64)
    return (exact * np.float64(np.float32(delta.scaling))).astype(np.float32)


def backwards(delta: Delta, start: int, stop: int) -> NDArray[np.float32]:
    """One product after the other, the last first, without fused additions."""
    total = np.zeros((stop - start, delta.shape[1]), np.float32)
    for k in reversed(range(delta.left.shape[1])):
        total += np.multiply.outer(delta.left[start:stop, k], delta.right[k])
    return total * np.float32(delta.scaling)


def at_random(delta: Delta, start: int, stop: int) -> NDArray[np.float32]:
    product, bound = ROWS(delta, start, stop), delta.bound(start, stop)
    signs = np.random.default_rng(start).choice([-1, 0, 1], product.shape)
    return product + bound * signs.astype(np.float32)


def at_the_lower_end(delta: Delta, start: int, stop: int) -> NDArray[np.float32]:
    return ROWS(delta, start, stop) - delta.bound(start, stop)


def at_the_upper_end(delta: Delta, start: int, stop: int) -> NDArray[np.float32]:
    return ROWS(delta, start, stop) + delta.bound(start, stop)


OTHERS = [in_float64, backwards, at_random, at_the_lower_end, at_the_upper_end]


def on_boundaries(tmp_path: Path, dtype: str) -> Lossless:
    """Weights that the adapter puts exactly between two stored numbers, and some zeros."""
    code = {"BF16": ml_dtypes.bfloat16, "F16": np.float16}[dtype]
    half = {"BF16": 2.0**-8, "F16": 2.0**-11}[dtype]
    rng = np.random.default_rng(4)
    b = rng.standard_normal((24, 16)).astype(np.float32)
    a = np.linalg.pinv(b.astype(np.float64)) @ np.full((24, 24), half)
    b[20:], a[:, 20:] = 0.0, 0.0
    # As near to a tie as the factors in float32 come.
    change = b @ a.astype(np.float32)
    weight = np.where(np.abs(change) > half / 2, 1.0 + half - change, 1.0)
    weight = weight.astype(code)
    weight[20:, :8] = 0.0
    weight[20:, 8:16] = -0.0
    tuned = (weight.astype(np.float32) + change).astype(code)
    name = f"{Q0}.weight"
    base = write_checkpoint(tmp_path / "base", {name: weight})
    after = write_checkpoint(tmp_path / "tuned", {name: tuned})
    adapter = write_adapter(tmp_path / "adapter", {Q0: (b, a.astype(np.float32))})
    return Lossless(base, after, adapter, residual_of(base, after, adapter))


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize(("before", "after"), [("BF16", "BF16"), ("F32", "F16"), ("F32", "F32")])
def test_other_sums_give_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: Product, before: str, after: str
) -> None:
    made = patched(*write_pair(tmp_path, before=before, after=after), tmp_path / "adapter")
    monkeypatch.setattr(Delta, "rows", other)
    check_identical(made, tmp_path / "out")


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_weights_at_rounding_boundaries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: Product, dtype: str
) -> None:
    made = on_boundaries(tmp_path, dtype)
    # Merging gives TUNED here; what is recorded is what it might not give elsewhere.
    loragraft.merge(made.base, made.adapter, tmp_path / "merged")
    merged, tuned = (
        load_file(directory / "model.safetensors")[f"{Q0}.weight"].view(np.uint16)
        for directory in (tmp_path / "merged", made.tuned)
    )
    differing = np.count_nonzero(merged != tuned)
    assert made.summary.weights > differing + 60
    monkeypatch.setattr(Delta, "rows", other)
    check_identical(made, tmp_path / "out")


def test_without_the_bound_other_sums_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above can tell: with no nudge the same pair is refused."""
    with monkeypatch.context() as patch:
        patch.setattr(Delta, "bound", lambda *_: np.float32(0.0))
        made = on_boundaries(tmp_path, "BF16")
    monkeypatch.setattr(Delta, "rows", at_the_lower_end)
    with pytest.raises(MismatchError, match="SHA-256"):
        loragraft.merge(made.base, made.adapter, tmp_path / "out", patch=True)


@pytest.mark.parametrize("kernels", ["Prescott", "Nehalem"])
def test_other_kernels_of_blas(tmp_path: Path, kernels: str) -> None:
    """OpenBLAS as older processors run it, with other sums and no fused additions."""
    made = on_boundaries(tmp_path, "BF16")
    out = tmp_path / "out"
    subprocess.run(
        [sys.executable, "-m", "loragraft", "merge", made.base, made.adapter, "-o", out, "--patch"],
        env={**os.environ, "OPENBLAS_CORETYPE": kernels},
        check=True,
        capture_output=True,
    )
    found, wanted = ((side / "model.safetensors").read_bytes() for side in (out, made.tuned))
    assert found == wanted


@pytest.mark.parametrize("scaling", [1.0, 0.37, -3.0, 2e-3])
@pytest.mark.parametrize("rank", [1, 3, 64])
def test_the_bound_holds(rank: int, scaling: float) -> None:
    """Half of it is what one product may be off: (r + 2)·u·|scaling|·(|B|·|A|)."""
    rng = np.random.default_rng(rank)
    left = (rng.standard_normal((40, rank)) * 10.0 ** rng.integers(-8, 3, (40, rank))).astype("f4")
    right = (rng.standard_normal((rank, 50)) * 10.0 ** rng.integers(-8, 3, (rank, 50))).astype("f4")
    left[3], right[:, 5] = 0.0, 0.0
    delta = Delta(left, right, scaling)
    wide, tall = left.astype(np.float64), right.astype(np.float64)
    exact = (wide @ tall) * float(np.float32(scaling))
    bound = delta.bound(0, 40).astype(np.float64)
    allowed = (rank + 2) * UNIT * abs(float(np.float32(scaling))) * (abs(wide) @ abs(tall))
    assert (bound / 2 >= allowed).all()
    assert (bound > 0).all()
    for product in (Delta.rows, backwards):
        assert (np.abs(product(delta, 0, 40) - exact) <= bound / 2).all()
    assert np.array_equal(delta.bound(7, 11), delta.bound(0, 40)[7:11])

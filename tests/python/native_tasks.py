"""Pairs of tensors on disk as tasks of the native batch, and what the batch should find."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save_file

from loragraft import native
from loragraft.safetensors_header import read_header

import lora_files as files  # isort: skip

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

MANTISSA = {"BF16": 7, "F16": 10, "F32": 23}
FIELDS = (
    "unchanged", "delta_square", "base_square", "rounding_square", "singular_values",
    "optimal_square", "residual_square", "passes", "exact", "rank", "dtype", "lora_a", "lora_b",
)  # fmt: skip


def write(path: Path, tensors: Mapping[str, NDArray[Any]]) -> Path:
    save_file(dict(tensors), path)
    return path


def write_pair(
    directory: Path, base: NDArray[Any], tuned: NDArray[Any], name: str = "w"
) -> tuple[Path, Path]:
    return (
        write(directory / "base.safetensors", {name: base}),
        write(directory / "tuned.safetensors", {name: tuned}),
    )


def stored(path: Path, name: str, io: str = "auto") -> native.StoredMatrix:
    extent = read_header(path).tensors[name]
    rows, columns = extent.shape
    return native.StoredMatrix(
        native.MappedFile(str(path), io), extent.begin, extent.dtype, rows, columns
    )


def task(
    base: Path, tuned: Path, name: str, rank: int = 4, *, key: int = 0, scaling: float = 1.0,
    io: str = "auto",
) -> native.ModuleTask:  # fmt: skip
    return native.ModuleTask(
        name, stored(base, name, io), stored(tuned, name, io), rank, key, scaling
    )


def run(
    tasks: Sequence[native.ModuleTask],
    *,
    oversampling: int = 8,
    power_iterations: int | None = None,
    dtype: str = "auto",
    threads: int = 2,
    arithmetic: str = "auto",
    workspace: int | None = None,
    nested: bool = False,
) -> list[native.ModuleResult]:
    """The results in the order of the tasks."""
    batch = native.Batch(
        tasks, oversampling, power_iterations, dtype, threads, arithmetic, workspace, nested
    )
    results: dict[int, native.ModuleResult] = {}
    try:
        while not batch.exhausted:
            finished = batch.next(60.0)
            assert finished is not None, "nothing finished within a minute"
            results[finished[0]] = finished[1]
    finally:
        batch.close()
    return [results[i] for i in range(len(tasks))]


def fields(result: native.ModuleResult) -> tuple[Any, ...]:
    """All that a result says, less the time it took."""
    values = (getattr(result, field) for field in FIELDS)
    return tuple(tuple(v) if isinstance(v, list) else v for v in values)


def factors(
    result: native.ModuleResult, shape: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(B, A) as written, in double precision."""
    dtype = files.NUMPY_DTYPES[result.dtype]
    b = np.frombuffer(result.lora_b, dtype).astype(np.float64).reshape(shape[0], result.rank)
    a = np.frombuffer(result.lora_a, dtype).astype(np.float64).reshape(result.rank, shape[1])
    return b, a


def delta(base: NDArray[Any], tuned: NDArray[Any]) -> NDArray[np.float64]:
    """ΔW as defined: both upcast to float32, subtracted in float32."""
    return (tuned.astype(np.float32) - base.astype(np.float32)).astype(np.float64)


def rounding_square(tuned: NDArray[Any], dtype: str) -> float:
    """Sum of ulp² / 12, for normal numbers."""
    _, exponents = np.frexp(tuned.astype(np.float64))
    return float((4.0 ** (exponents - 1 - MANTISSA[dtype])).sum() / 12.0)


def pair(
    shape: tuple[int, int], base: str = "BF16", tuned: str = "BF16", *, change: float = 0.05,
    seed: int = 0,
) -> tuple[NDArray[Any], NDArray[Any]]:  # fmt: skip
    """Weights and what a low-rank change plus a little noise made of them."""
    rng = np.random.default_rng((seed, *shape))
    weights = rng.standard_normal(shape)
    low = rng.standard_normal((shape[0], 3)) @ rng.standard_normal((3, shape[1]))
    moved = weights + change * (low + 0.1 * rng.standard_normal(shape))
    return weights.astype(files.NUMPY_DTYPES[base]), moved.astype(files.NUMPY_DTYPES[tuned])

"""Pairs of stored matrices between which a known low-rank change lies, and their rounding cells.

Run as a script it evaluates all of them on the ISA that LORAGRAFT_ISA names, printing JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import ml_dtypes
import numpy as np

import native_tasks as nt
from loragraft import native

if TYPE_CHECKING:
    from numpy.typing import NDArray

STORED: dict[str, Any] = {
    "BF16": ml_dtypes.bfloat16,
    "F16": np.float16,
    "F32": np.float32,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
}
#: Base dtype, tuned dtype.
PAIRS = (
    ("BF16", "BF16"), ("F16", "F16"), ("F32", "BF16"), ("BF16", "F16"), ("F16", "BF16"),
    ("F32", "F16"), ("BF16", "F8_E4M3"), ("F16", "F8_E5M2"),
)  # fmt: skip
#: Narrower and wider than a vector and a tile, lower and higher than a slab and a group.
SHAPES = ((1, 1), (37, 5), (70, 65), (300, 33), (40, 2321))


class Case(NamedTuple):
    base: NDArray[Any]
    tuned: NDArray[Any]
    lora_b: NDArray[np.float32]  # (m, r), the change that was merged
    lora_a: NDArray[np.float32]  # (r, n)


def merged(
    shape: tuple[int, int], base: str = "BF16", tuned: str = "BF16", *, rank: int = 3,
    change: float = 0.01, zeros: float = 0.01, seed: int = 0,
) -> Case:  # fmt: skip
    """Weights of deviation 1, a share of them zero, and a merged change of deviation ``change``."""
    rng = np.random.default_rng((seed, *shape, rank))
    weights = rng.standard_normal(shape)
    weights[rng.random(shape) < zeros] = 0.0
    stored = weights.astype(np.float32).astype(STORED[base])
    b = rng.standard_normal((shape[0], rank)).astype(np.float32)
    a = (change / np.sqrt(rank) * rng.standard_normal((rank, shape[1]))).astype(np.float32)
    total = stored.astype(np.float32) + b @ a
    return Case(stored, total.astype(STORED[tuned]), b, a)


def stored_pair(
    directory: Path, case: Case, name: str = "w"
) -> tuple[native.StoredMatrix, native.StoredMatrix]:
    directory.mkdir(parents=True, exist_ok=True)
    base, tuned = nt.write_pair(directory, case.base, case.tuned, name)
    return nt.stored(base, name), nt.stored(tuned, name)


def bounds(case: Case, dtype: str, stretch: float, slack: float) -> tuple[Any, Any]:
    """Cells of the change in double precision, as the kernels define them."""
    tuned = case.tuned.astype(np.float64)
    base = case.base.astype(np.float64)
    low, high, _, _ = (
        end.reshape(tuned.shape)
        for end in native.rounding_cells(case.tuned.astype(np.float32), dtype)
    )
    away = np.where(np.signbit(tuned), tuned - low, high - tuned)
    room = slack * (np.abs(tuned - base) + away)
    return (
        tuned - base - stretch * (tuned - low) - room,
        tuned - base + stretch * (high - tuned) + room,
    )


def perturbed(case: Case, seed: int = 1) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Factors some of whose entries leave their cells: (B, A)."""
    rng = np.random.default_rng(seed)
    noise = 1.0 + 0.3 * rng.standard_normal(case.lora_b.shape)
    return (case.lora_b * noise).astype(np.float32), case.lora_a


def evaluate(directory: Path) -> dict[str, Any]:
    """What this process's ISA finds for every pair and shape."""
    found = {}
    for base, tuned in PAIRS:
        for shape in SHAPES:
            case = merged(shape, base, tuned)
            b, a = perturbed(case)
            name = f"{base}.{tuned}.{shape[0]}.{shape[1]}"
            pair = stored_pair(directory / name, case)
            square, violations, left, right = native.cell_residual(
                *pair, a, b, tuned, stretch=0.9, slack=0.01, threads=2
            )
            exact = native.count_exact(*pair, case.lora_a, case.lora_b, tuned)
            found[name] = (square, violations, left.tolist(), right.tolist(), exact)
    return found


if __name__ == "__main__":
    json.dump(evaluate(Path(sys.argv[1])), sys.stdout)

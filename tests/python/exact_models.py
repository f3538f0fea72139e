"""Small checkpoints into which a LoRA was merged, each weight rounded once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import ml_dtypes
import numpy as np

from exact_cases import STORED as TYPES
from lora_files import write_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SHAPES = {
    f"model.layers.{layer}.{name}": shape
    for layer in range(2)
    for name, shape in {
        "self_attn.q_proj": (96, 96),
        "mlp.up_proj": (160, 96),
        "mlp.down_proj": (96, 160),
    }.items()
}


class Merge(NamedTuple):
    """A pair of checkpoints and what lies between them.

    Attributes:
        base: Directory of the base.
        tuned: Directory of the merge.
        changes: B·A by module, in double precision.
    """

    base: Path
    tuned: Path
    changes: dict[str, NDArray[np.float64]]


def merge(
    directory: Path,
    *,
    rank: int = 4,
    size: float = 2.0,
    base: str = "BF16",
    tuned: str = "BF16",
    rounded: bool = False,
    seed: int = 0,
) -> Merge:
    """Write both sides.

    Args:
        directory: Gets ``base`` and ``tuned``.
        rank: Of the LoRA; 0 for a change of full rank.
        size: Root mean square of the change, in half cells of the tuned format.
        base: Format of the base.
        tuned: Of the merge.
        rounded: Round the change to bf16 before it is added, as PEFT does with a bf16 adapter.
        seed: Of everything.
    """
    rng = np.random.default_rng(seed)
    before: dict[str, NDArray[Any]] = {"model.norm.weight": np.ones(96, TYPES[base])}
    after: dict[str, NDArray[Any]] = {"model.norm.weight": np.ones(96, TYPES[tuned])}
    changes = {}
    for name, shape in SHAPES.items():
        weight = (0.05 * rng.standard_normal(shape)).astype(TYPES[base])
        change = _change(rng, shape, rank) * size * half_cell(weight.astype(np.float64), tuned)
        if rounded:
            change = change.astype(np.float32).astype(ml_dtypes.bfloat16).astype(np.float64)
        total = weight.astype(np.float32) + change.astype(np.float32)
        before[f"{name}.weight"] = weight
        after[f"{name}.weight"] = total.astype(TYPES[tuned])
        changes[name] = change
    return Merge(
        write_checkpoint(directory / "base", before),
        write_checkpoint(directory / "tuned", after),
        changes,
    )


def _change(rng: np.random.Generator, shape: tuple[int, int], rank: int) -> NDArray[np.float64]:
    """A change of root mean square about 1."""
    if rank == 0:
        return rng.standard_normal(shape)
    left, right = rng.standard_normal((shape[0], rank)), rng.standard_normal((rank, shape[1]))
    return np.asarray(left @ right / np.sqrt(rank))


def half_cell(weight: NDArray[np.float64], code: str) -> float:
    """Half of a median weight's unit in the last place."""
    bits = {"BF16": 7, "F16": 10, "F8_E4M3": 3, "F8_E5M2": 2, "F32": 23}[code]
    median = float(np.median(np.abs(weight)))
    return float(2.0 ** (np.floor(np.log2(median)) - bits - 1))


def error(found: NDArray[Any], change: NDArray[np.float64]) -> float:
    """How far a change that was found is from the true one, relative to it."""
    return float(np.linalg.norm(found - change) / np.linalg.norm(change))

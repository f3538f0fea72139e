"""A pair of a single large matrix: the down projection of a 70B model."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from loragraft.dtypes import bf16_from_float32, float32_from_bf16
from pairs import (
    CHANGE_RANK,
    CHANGE_RMS,
    NOISE_RMS,
    WEIGHT_RMS,
    Pair,
    Piece,
    gaussian,
    generator,
    write_pair,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from pairs import Bits

HIDDEN: Final = 8192
INTERMEDIATE: Final = 28672
TENSOR: Final = "model.layers.0.mlp.down_proj.weight"
_SLAB_ROWS: Final = 512
_ITEM: Final = 2


def wide_pair(root: Path) -> Pair:
    """Make a pair of one matrix of 8192 × 28672 unless it is there already.

    The change is of the same kind as that of the other pairs, made by slabs of rows, because the
    whole matrix in float32 would take a gigabyte for every copy.

    Args:
        root: Where pairs are kept.
    """
    name = f"matrix-{HIDDEN}x{INTERMEDIATE}"
    if not (root / name).exists():
        right = gaussian(generator(TENSOR), (CHANGE_RANK, INTERMEDIATE), 1.0)
        pieces = (
            Piece(TENSOR, start * INTERMEDIATE * _ITEM, partial(_slab, start, right))
            for start in range(0, HIDDEN, _SLAB_ROWS)
        )
        write_pair(root / name, {TENSOR: (HIDDEN, INTERMEDIATE)}, _config(), pieces)
    parameters = HIDDEN * INTERMEDIATE
    return Pair(name, root / name / "base", root / name / "tuned", 1, parameters)


def _slab(start: int, right: NDArray[np.float32]) -> tuple[Bits, Bits]:
    rng = generator(f"{TENSOR} from row {start}")
    shape = (_SLAB_ROWS, INTERMEDIATE)
    weight = bf16_from_float32(gaussian(rng, shape, WEIGHT_RMS))
    squares = 1.0 / np.arange(1.0, CHANGE_RANK + 1.0)
    scales = np.sqrt(squares / squares.sum(), dtype=np.float64).astype(np.float32)
    left = gaussian(rng, (_SLAB_ROWS, CHANGE_RANK), CHANGE_RMS) * scales
    changed = float32_from_bf16(weight) + left @ right + gaussian(rng, shape, NOISE_RMS)
    return weight, bf16_from_float32(changed)


def _config() -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "num_hidden_layers": 1,
        "vocab_size": 1024,
    }

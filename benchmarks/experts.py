"""A pair of many small matrices: experts named and shaped like those of Qwen3-30B-A3B."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pairs import Pair, tensor_piece, write_pair

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HIDDEN: Final = 2048
INTERMEDIATE: Final = 768
LAYERS: Final = 4
#: As many as make the pair as large as a dense one of four layers.
EXPERTS: Final = 13


def expert_pair(root: Path) -> Pair:
    """Make a pair of 156 matrices of 768 × 2048 or 2048 × 768 unless it is there already.

    Args:
        root: Where pairs are kept.
    """
    name = f"experts-{LAYERS}x{EXPERTS}"
    shapes = dict(_shapes())
    if not (root / name).exists():
        write_pair(root / name, shapes, _config(), map(tensor_piece, shapes, shapes.values()))
    parameters = sum(rows * columns for rows, columns in shapes.values())
    return Pair(name, root / name / "base", root / name / "tuned", LAYERS, parameters)


def _shapes() -> Iterator[tuple[str, tuple[int, int]]]:
    for layer in range(LAYERS):
        for expert in range(EXPERTS):
            block = f"model.layers.{layer}.mlp.experts.{expert}"
            yield f"{block}.gate_proj.weight", (INTERMEDIATE, HIDDEN)
            yield f"{block}.up_proj.weight", (INTERMEDIATE, HIDDEN)
            yield f"{block}.down_proj.weight", (HIDDEN, INTERMEDIATE)


def _config() -> dict[str, object]:
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "dtype": "bfloat16",
        "hidden_size": HIDDEN,
        "moe_intermediate_size": INTERMEDIATE,
        "num_experts": EXPERTS,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "num_hidden_layers": LAYERS,
        "vocab_size": 1024,
    }

"""A pair with experts in fused tensors: two layers of the shapes of Qwen3.5-35B-A3B."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from pairs import Pair, Piece, tensor_piece, write_pair

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HIDDEN: Final = 2048
INTERMEDIATE: Final = 512
EXPERTS: Final = 256
LAYERS: Final = 2
HEADS: Final = 16
HEAD_SIZE: Final = 256
KEY_VALUE_HEADS: Final = 2
_BF16: Final = 2


def fused_pair(root: Path) -> Pair:
    """Make a pair of 3.4 GB a side unless it is there already.

    Every expert's change is that of `pairs.tensor_piece`, as every linear layer's is.

    Args:
        root: Where pairs are kept.
    """
    name = f"fused-{LAYERS}x{EXPERTS}"
    shapes = dict(_shapes())
    if not (root / name).exists():
        pieces = (piece for tensor, shape in shapes.items() for piece in _pieces(tensor, shape))
        write_pair(root / name, shapes, _config(), pieces)
    parameters = sum(math.prod(shape) for shape in shapes.values())
    return Pair(name, root / name / "base", root / name / "tuned", LAYERS, parameters)


def _pieces(tensor: str, shape: tuple[int, ...]) -> Iterator[Piece]:
    if len(shape) == 2:
        yield tensor_piece(tensor, (shape[0], shape[1]))
        return
    count, rows, columns = shape
    for expert in range(count):
        piece = tensor_piece(f"{tensor}.{expert}", (rows, columns))
        yield Piece(tensor, expert * rows * columns * _BF16, piece.make)


def _shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    for layer in range(LAYERS):
        block = f"model.language_model.layers.{layer}"
        yield f"{block}.self_attn.q_proj.weight", (2 * HEADS * HEAD_SIZE, HIDDEN)
        yield f"{block}.self_attn.k_proj.weight", (KEY_VALUE_HEADS * HEAD_SIZE, HIDDEN)
        yield f"{block}.self_attn.v_proj.weight", (KEY_VALUE_HEADS * HEAD_SIZE, HIDDEN)
        yield f"{block}.self_attn.o_proj.weight", (HIDDEN, HEADS * HEAD_SIZE)
        yield f"{block}.mlp.experts.gate_up_proj", (EXPERTS, 2 * INTERMEDIATE, HIDDEN)
        yield f"{block}.mlp.experts.down_proj", (EXPERTS, HIDDEN, INTERMEDIATE)
        yield f"{block}.mlp.gate.weight", (EXPERTS, HIDDEN)
        for kind in ("gate_proj", "up_proj"):
            yield f"{block}.mlp.shared_expert.{kind}.weight", (INTERMEDIATE, HIDDEN)
        yield f"{block}.mlp.shared_expert.down_proj.weight", (HIDDEN, INTERMEDIATE)


def _config() -> dict[str, object]:
    text = {
        "model_type": "qwen3_5_moe_text",
        "hidden_size": HIDDEN,
        "moe_intermediate_size": INTERMEDIATE,
        "shared_expert_intermediate_size": INTERMEDIATE,
        "num_experts": EXPERTS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_VALUE_HEADS,
        "head_dim": HEAD_SIZE,
        "num_hidden_layers": LAYERS,
        "layer_types": ["full_attention"] * LAYERS,
        "vocab_size": 1024,
    }
    return {
        "architectures": ["Qwen3_5MoeForConditionalGeneration"],
        "model_type": "qwen3_5_moe",
        "dtype": "bfloat16",
        "text_config": text,
    }

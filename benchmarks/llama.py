"""Llama-shaped pairs: hidden size 2048, intermediate size 8192, 32 heads, 8 of them for keys."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Final

import numpy as np

from loragraft.dtypes import bf16_from_float32
from pairs import (
    WEIGHT_RMS,
    Pair,
    Piece,
    copied_pieces,
    gaussian,
    generator,
    ready_piece,
    tensor_piece,
    write_pair,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HIDDEN: Final = 2048
INTERMEDIATE: Final = 8192
HEADS: Final = 32
KEY_VALUE_HEADS: Final = 8
VOCABULARY: Final = 32000
#: A thousand million weights in the linear layers, 1.95 GB on each side.
DEEPEST: Final = 16


def llama_pair(root: Path, layers: int, *, complete: bool = False) -> Pair:
    """Make a pair with random weights unless it is there already.

    The change of every linear layer is that of `pairs.tensor_piece`. A layer's tensors depend on
    its number alone, so a deeper pair begins with the shallower one; what the deepest pair has
    is copied from there.

    Args:
        root: Where pairs are kept.
        layers: Number of blocks.
        complete: Add embeddings, norms and the head, equal on both sides, so that model
            libraries can load it.
    """
    name = f"llama-{layers}-layer{'-complete' if complete else ''}"
    linears = dict(_linear_shapes(layers))
    others = dict(_other_shapes(layers)) if complete else {}
    if not (root / name).exists():
        pieces = chain(_linear_pieces(root, linears), map(_equal_piece, others, others.values()))
        write_pair(root / name, linears | others, _config(layers), pieces)
    return _pair(root, name, layers)


def _pair(root: Path, name: str, layers: int) -> Pair:
    parameters = sum(rows * columns for _, (rows, columns) in _linear_shapes(layers))
    return Pair(name, root / name / "base", root / name / "tuned", layers, parameters)


def _linear_pieces(root: Path, shapes: dict[str, tuple[int, int]]) -> Iterator[Piece]:
    deepest = _pair(root, f"llama-{DEEPEST}-layer", DEEPEST)
    if deepest.base.exists():
        return copied_pieces(deepest, shapes)
    return map(tensor_piece, shapes, shapes.values())


def _equal_piece(name: str, shape: tuple[int, ...]) -> Piece:
    values = np.ones(shape, np.float32)
    if len(shape) == 2:
        values = gaussian(generator(name), shape, WEIGHT_RMS)
    bits = bf16_from_float32(values)
    return ready_piece(name, bits, bits)


def _linear_shapes(layers: int) -> Iterator[tuple[str, tuple[int, int]]]:
    narrow = HIDDEN // HEADS * KEY_VALUE_HEADS
    for layer in range(layers):
        block = f"model.layers.{layer}"
        yield f"{block}.self_attn.q_proj.weight", (HIDDEN, HIDDEN)
        yield f"{block}.self_attn.k_proj.weight", (narrow, HIDDEN)
        yield f"{block}.self_attn.v_proj.weight", (narrow, HIDDEN)
        yield f"{block}.self_attn.o_proj.weight", (HIDDEN, HIDDEN)
        yield f"{block}.mlp.gate_proj.weight", (INTERMEDIATE, HIDDEN)
        yield f"{block}.mlp.up_proj.weight", (INTERMEDIATE, HIDDEN)
        yield f"{block}.mlp.down_proj.weight", (HIDDEN, INTERMEDIATE)


def _other_shapes(layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "model.embed_tokens.weight", (VOCABULARY, HIDDEN)
    for layer in range(layers):
        yield f"model.layers.{layer}.input_layernorm.weight", (HIDDEN,)
        yield f"model.layers.{layer}.post_attention_layernorm.weight", (HIDDEN,)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCABULARY, HIDDEN)


def _config(layers: int) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_VALUE_HEADS,
        "num_hidden_layers": layers,
        "tie_word_embeddings": False,
        "vocab_size": VOCABULARY,
    }

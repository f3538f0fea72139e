"""Small models in files, and others that compute the same in other coordinates."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save_file

import lora_files as files

if TYPE_CHECKING:
    from pathlib import Path

    Array = files.Array

LAYERS, WIDTH, INNER = 2, 32, 48
HEADS, GROUPS, SIZE = 4, 2, 8
TOKENS = 120
READERS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj",
           "mlp.up_proj")  # fmt: skip
WRITERS = ("self_attn.o_proj", "mlp.down_proj")


@dataclass
class Turn:
    """How a model is written in other coordinates.

    Attributes:
        rotation: R, (width, width).
        rows: For each number of inner coordinates of a module, where they come from.
        tokens: Old numbers in the new order.
    """

    rotation: Array
    queries: Array
    keys: Array
    neurons: Array
    tokens: Array

    def inner(self, tail: str) -> Array:
        if tail.startswith("mlp"):
            return self.neurons
        return self.keys if tail.endswith(("k_proj", "v_proj")) else self.queries


def turn(
    seed: int = 5, *, stream: bool = True, heads: bool = True, neurons: bool = True,
    tokens: bool = True,
) -> Turn:  # fmt: skip
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0] if stream else np.eye(WIDTH)
    groups = rng.permutation(GROUPS)[::-1] if heads else np.arange(GROUPS)
    if heads and (groups == np.arange(GROUPS)).all():
        groups = groups[::-1]
    each = HEADS // GROUPS
    inside = [rng.permutation(each) if heads else np.arange(each) for _ in groups]
    order = np.concatenate([g * each + i for g, i in zip(groups, inside, strict=True)])
    return Turn(
        rotation,
        _rows(order),
        _rows(groups),
        rng.permutation(INNER) if neurons else np.arange(INNER),
        rng.permutation(TOKENS) if tokens else np.arange(TOKENS),
    )


def _rows(heads: Array) -> Array:
    return (heads[:, None] * SIZE + np.arange(SIZE)).ravel()


def tensors(
    seed: int = 1, *, width: int = WIDTH, inner: int = INNER, heads: tuple[int, int, int] = (
        HEADS, GROUPS, SIZE), gains: bool = True, layers: int = LAYERS,
) -> dict[str, Array]:  # fmt: skip
    """A random Llama in float64."""
    rng = np.random.default_rng(seed)
    queries, keys = heads[0] * heads[2], heads[1] * heads[2]
    shapes = {"self_attn.q_proj": (queries, width), "self_attn.k_proj": (keys, width),
              "self_attn.v_proj": (keys, width), "self_attn.o_proj": (width, queries),
              "mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width),
              "mlp.down_proj": (width, inner)}  # fmt: skip
    found = {"model.embed_tokens.weight": rng.standard_normal((TOKENS, width)) + 0.3}
    for layer in range(layers):
        for tail, shape in shapes.items():
            weight = rng.standard_normal(shape) / shape[1] ** 0.5
            found[f"model.layers.{layer}.{tail}.weight"] = weight
        for norm in ("input_layernorm", "post_attention_layernorm"):
            gain = rng.uniform(0.5, 2.0, width) if gains else np.ones(width)
            found[f"model.layers.{layer}.{norm}.weight"] = gain
    found["model.norm.weight"] = rng.uniform(0.5, 2.0, width) if gains else np.ones(width)
    found["lm_head.weight"] = rng.standard_normal((TOKENS, width)) / width**0.5
    return {name: values.astype(np.float32).astype(np.float64) for name, values in found.items()}


def gain_of(source: dict[str, Array], name: str) -> Array:
    layer = name.split(".")[2]
    norm = "input_layernorm" if "self_attn" in name else "post_attention_layernorm"
    return source[f"model.layers.{layer}.{norm}.weight"]


def turned_matrix(name: str, values: Array, source: dict[str, Array], how: Turn) -> Array:
    """A matrix of a block, or an update of it, in the other coordinates, gains folded in."""
    tail = name.split(".", 3)[3]
    if tail in WRITERS:
        return how.rotation @ values[:, how.inner(tail)]
    return (values * gain_of(source, name))[how.inner(tail)] @ how.rotation.T


def turned(source: dict[str, Array], how: Turn) -> dict[str, Array]:
    """The whole model in other coordinates: all gains are one, they are in the weights."""
    found = {}
    for name, values in source.items():
        if name == "lm_head.weight":
            folded = values * source["model.norm.weight"]
            found[name] = folded[how.tokens] @ how.rotation.T
        elif "embed" in name:
            found[name] = values[how.tokens] @ how.rotation.T
        elif values.ndim == 1:
            found[name] = np.ones_like(values)
        else:
            found[name] = turned_matrix(name.removesuffix(".weight"), values, source, how)
    return found


def config(model: dict[str, Array], heads: tuple[int, int, int] = (HEADS, GROUPS, SIZE),
           **more: Any) -> dict[str, Any]:  # fmt: skip
    tokens, width = model["model.embed_tokens.weight"].shape
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": tokens,
        "hidden_size": width,
        "intermediate_size": len(model["model.layers.0.mlp.gate_proj.weight"]),
        "num_hidden_layers": sum(name.endswith("q_proj.weight") for name in model),
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "head_dim": heads[2],
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        **more,
    }


def save(directory: Path, model: dict[str, Array], settings: dict[str, Any],
         tokens: dict[str, int] | None) -> Path:  # fmt: skip
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(settings))
    stored = {name: np.ascontiguousarray(v, np.float32) for name, v in model.items()}
    save_file(stored, directory / "model.safetensors", metadata={"format": "pt"})
    if tokens is not None:
        content = {"model": {"type": "BPE", "vocab": tokens, "merges": []}, "added_tokens": []}
        (directory / "tokenizer.json").write_text(json.dumps(content))
    return directory


def words(order: Array, shared: float = 1.0, other: str = "x") -> dict[str, int]:
    """Token -> number; the last ones of the old order have other names."""
    kept = int(shared * TOKENS)
    return {(f"w{old}" if old < kept else f"{other}{old}"): new for new, old in enumerate(order)}


def adapter(directory: Path, model: dict[str, Array], rank: int = 3, seed: int = 7,
            **more: Any) -> tuple[Path, dict[str, Array]]:  # fmt: skip
    """An adapter on every linear layer of the blocks, and its updates in float64."""
    rng = np.random.default_rng(seed)
    factors, deltas = {}, {}
    for name, weight in model.items():
        if ".layers." in name and weight.ndim == 2:
            b = (0.1 * rng.standard_normal((weight.shape[0], rank))).astype(np.float32)
            a = rng.standard_normal((rank, weight.shape[1])).astype(np.float32)
            module = name.removesuffix(".weight")
            factors[module] = (b, a)
            deltas[module] = b.astype(np.float64) @ a.astype(np.float64)
    return files.write_adapter(directory, factors, **more), deltas

"""Models that store as one weight what others store as several, with the same function."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import Phi3Config, Phi3ForCausalLM

import lora_files as files
import transfer_files as made
from loragraft.architecture import take_inventory
from loragraft.architecture.parts import split
from loragraft.checkpoint import open_checkpoint

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from loragraft.architecture.parts import Part

    Array = files.Array

FUSED = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
}


def phi3_of(llama: Path, out: Path) -> Path:
    """Save the Phi-3 that computes what a Llama does, with its fused weights."""
    own = json.loads((llama / "config.json").read_text())
    kept = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
            "num_attention_heads", "num_key_value_heads", "max_position_embeddings",
            "rms_norm_eps", "tie_word_embeddings", "bos_token_id", "eos_token_id",
            "pad_token_id")  # fmt: skip
    config = Phi3Config(**{key: own[key] for key in kept}, sliding_window=None)
    tensors = fused(files.read_checkpoint(llama))
    model = Phi3ForCausalLM(config)
    model.load_state_dict({name: torch.from_numpy(values) for name, values in tensors.items()})
    dtype = next(iter(model.state_dict().values())).dtype
    model.to(dtype).save_pretrained(out)
    for tokens in llama.glob("tokenizer.json"):
        (out / tokens.name).write_bytes(tokens.read_bytes())
    return out


def fused(tensors: Mapping[str, Array], end: str = ".weight") -> dict[str, Array]:
    """Put rows of q, k, v and of gate and up below each other; names end with ``end``."""
    found = dict(tensors)
    for whole, parts in FUSED.items():
        for name in [name for name in found if name.endswith(parts[0] + end)]:
            stem = name.removesuffix(parts[0] + end)
            rows = [found.pop(stem + part + end) for part in parts]
            found[stem + whole + end] = np.concatenate(rows)
    return found


def parts(checkpoint: Path) -> dict[str, Part]:
    """The layers of a model by name, fused ones by the names of their parts."""
    opened = open_checkpoint(checkpoint)
    return {part.linear.name: part for part in split(take_inventory(opened).linears, opened.config)}


def rows_of(part: Part) -> Array:
    return np.concatenate([np.arange(one.start, one.stop) for one in part.rows])


def deltas(checkpoint: Path, factors: Mapping[str, tuple[Array, Array]]) -> dict[str, Array]:
    """B A of every part of every module, by the part's name."""
    found = {}
    for name, part in parts(checkpoint).items():
        if part.whole.name in factors:
            found[name] = made.product(factors[part.whole.name])[rows_of(part)]
    return found

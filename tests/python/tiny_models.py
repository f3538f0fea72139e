"""Tiny random models of real transformers classes, and tuned copies of them, on disk."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
)

if TYPE_CHECKING:
    from pathlib import Path

VOCABULARY = 128
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp16": torch.float16}

_COMMON = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "attention_dropout": 0.0,
}
_LLAMA = {
    **_COMMON,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
_CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {**_LLAMA, "tie_word_embeddings": False},
    "mistral": {**_LLAMA, "num_hidden_layers": 2, "sliding_window": 16},
    "qwen2": {**_LLAMA, "tie_word_embeddings": True},
    "gemma3_text": {**_LLAMA, "head_dim": 8, "sliding_window": 16, "query_pre_attn_scalar": 8},
    "phi": {**_LLAMA, "num_key_value_heads": 4, "resid_pdrop": 0.0, "embd_pdrop": 0.0},
    "phi3": {**_LLAMA, "resid_pdrop": 0.0, "embd_pdrop": 0.0},
    "gpt_neox": {
        **_COMMON,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
    },
    "gpt2": {
        "vocab_size": VOCABULARY,
        "n_positions": 64,
        "n_embd": 32,
        "n_layer": 3,
        "n_head": 4,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    },
}
FAMILIES = tuple(_CONFIGS)

_NO_LINEAR = re.compile(r"embed|wte|wpe|norm|ln_|lm_head|score")


def build(
    family: str,
    directory: Path,
    *,
    seed: int,
    dtype: str = "bf16",
    max_shard_size: str = "1GB",
) -> Path:
    """Save a random causal language model of the family; biases and norms are random too."""
    config = AutoConfig.for_model(family, **_CONFIGS[family])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
        model = model.to(torch.float32).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
                else:
                    parameter.copy_(torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)
    model.to(DTYPES[dtype]).save_pretrained(directory, max_shard_size=max_shard_size)
    return directory


def config_of(family: str) -> dict[str, Any]:
    """Return the arguments of the configuration that `build` makes."""
    return dict(_CONFIGS[family])


def build_gemma3_vision(directory: Path, *, seed: int) -> Path:
    """Save a random Gemma-3 with a vision tower, whose files name modules as the Hub's do."""
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 8,
        "patch_size": 4,
    }
    config = Gemma3Config(
        text_config=_CONFIGS["gemma3_text"],
        vision_config=vision,
        mm_tokens_per_image=4,
        image_token_index=5,
        boi_token_index=6,
        eoi_token_index=7,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Gemma3ForConditionalGeneration(config)
    model.save_pretrained(directory)
    return directory


def perturb(
    directory: Path,
    out: Path,
    *,
    rank: int,
    seed: int,
    scale: float,
    modules: str | None = None,
    vectors: float = 0.0,
) -> Path:
    """Save a tuned copy whose linear weights have a planted low-rank change.

    Args:
        directory: A checkpoint as `build` makes it.
        out: Where the copy goes.
        rank: Rank of the planted change (before the rounding to the storage dtype).
        seed: Of the change.
        scale: ‖ΔW‖ / ‖W‖ of every changed weight.
        modules: Regular expression searched for in the tensor names; of the matrices only those
            that it finds change. None for all but embeddings and heads.
        vectors: Relative size of a change to biases and norms; 0 leaves them as they are.
    """
    shutil.copytree(directory, out)
    generator = torch.Generator().manual_seed(seed)
    for path in sorted(out.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
        for name, tensor in tensors.items():
            if tensor.dim() == 2 and _is_changed(name, modules):
                delta = _low_rank(tuple(tensor.shape), rank, generator)
                size = scale * tensor.float().norm() / delta.norm()
                tensors[name] = (tensor.float() + size * delta).to(tensor.dtype)
            elif tensor.dim() == 1 and vectors:
                noise = vectors * torch.randn(tensor.shape, generator=generator)
                tensors[name] = (tensor.float() * (1.0 + noise)).to(tensor.dtype)
        save_file(tensors, path, metadata=metadata)
    return out


def read_tensors(directory: Path) -> dict[str, torch.Tensor]:
    """Return every tensor of a checkpoint or adapter."""
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return tensors


def edit_config(directory: Path, **changes: Any) -> None:
    """Change keys of config.json; None removes one."""
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | changes
    kept = {key: value for key, value in config.items() if value is not None}
    path.write_text(json.dumps(kept), encoding="utf-8")


def _is_changed(name: str, modules: str | None) -> bool:
    if modules is None:
        return name.endswith(".weight") and _NO_LINEAR.search(name) is None
    return re.search(modules, name) is not None


def _low_rank(shape: tuple[int, ...], rank: int, generator: torch.Generator) -> torch.Tensor:
    rows, columns = shape
    left = torch.randn(rows, rank, generator=generator)
    return left @ torch.randn(rank, columns, generator=generator)

"""Small checkpoints and adapters as files, made with NumPy and the official writer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    Array = NDArray[Any]

NUMPY_DTYPES: dict[str, Any] = {
    "BF16": ml_dtypes.bfloat16,
    "F16": np.float16,
    "F32": np.float32,
}
CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16"}
SHAPES = {
    "model.embed_tokens.weight": (40, 24),
    "model.layers.0.self_attn.q_proj.weight": (24, 24),
    "model.layers.0.self_attn.k_proj.weight": (8, 24),
    "model.layers.0.mlp.down_proj.weight": (24, 56),
    "model.layers.0.input_layernorm.weight": (24,),
    "model.layers.1.self_attn.q_proj.weight": (24, 24),
    "model.layers.1.self_attn.k_proj.weight": (8, 24),
    "model.layers.1.mlp.down_proj.weight": (24, 56),
    "model.layers.1.input_layernorm.weight": (24,),
    "model.norm.weight": (24,),
    "lm_head.weight": (40, 24),
}
Q0, K1, DOWN0 = (
    "model.layers.0.self_attn.q_proj",
    "model.layers.1.self_attn.k_proj",
    "model.layers.0.mlp.down_proj",
)
#: What `noisy_pair` adapts, and with which rank.
ADAPTED = (Q0, K1, DOWN0)
RANK = 3


def random_weights(seed: int = 0, dtype: str = "BF16") -> dict[str, Array]:
    """The tensors of a Llama-shaped toy, rounded to ``dtype``."""
    rng = np.random.default_rng(seed)
    return {
        name: (rng.standard_normal(shape) * 0.3).astype(NUMPY_DTYPES[dtype])
        for name, shape in SHAPES.items()
    }


def random_factors(
    names: tuple[str, ...], rank: int, *, seed: int = 1, scale: float = 0.05
) -> dict[str, tuple[Array, Array]]:
    """(B, A) in float32 for modules of the toy."""
    rng = np.random.default_rng(seed)
    factors = {}
    for name in names:
        rows, columns = SHAPES[f"{name}.weight"]
        factors[name] = (
            (rng.standard_normal((rows, rank)) * scale).astype(np.float32),
            (rng.standard_normal((rank, columns)) * scale).astype(np.float32),
        )
    return factors


def write_checkpoint(
    directory: Path,
    tensors: Mapping[str, Array],
    *,
    shards: int = 1,
    config: Mapping[str, Any] | None = CONFIG,
) -> Path:
    """Save tensors as one file, or as several with an index."""
    directory.mkdir(parents=True)
    if config is not None:
        (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if shards == 1:
        save_file(dict(tensors), directory / "model.safetensors", metadata={"format": "pt"})
        return directory
    weight_map = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in list(tensors)[number::shards]}
        save_file(part, directory / file, metadata={"format": "pt", "part": str(number)})
        weight_map.update(dict.fromkeys(part, file))
    index = {
        "metadata": {"total_size": sum(array.nbytes for array in tensors.values())},
        "weight_map": weight_map,
    }
    (directory / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return directory


def write_adapter(
    directory: Path,
    factors: Mapping[str, tuple[Array, Array]],
    *,
    alpha: float | None = None,
    more: Mapping[str, Array] | None = None,
    **config: Any,
) -> Path:
    """Save factors as PEFT does; alpha defaults to the rank."""
    directory.mkdir(parents=True)
    tensors = dict(more or {})
    for name, (b, a) in factors.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = np.ascontiguousarray(a)
        tensors[f"base_model.model.{name}.lora_B.weight"] = np.ascontiguousarray(b)
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    rank = next(iter(factors.values()))[1].shape[0]
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "owner/toy",
        "r": rank,
        "lora_alpha": rank if alpha is None else alpha,
        "target_modules": sorted(factors),
        **config,
    }
    (directory / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return directory


def read_checkpoint(directory: Path) -> dict[str, Array]:
    """Load every tensor with the official reader."""
    tensors: dict[str, Array] = {}
    for path in sorted(directory.glob("*.safetensors")):
        tensors |= load_file(path)
    return tensors


def add_delta(
    weights: Mapping[str, Array],
    factors: Mapping[str, tuple[Array, Array]],
    *,
    scaling: float = 1.0,
    dtype: str = "BF16",
) -> dict[str, Array]:
    """Tensors with the adapter added, each weight rounded once from float32."""
    merged = dict(weights)
    for name, (b, a) in factors.items():
        weight = weights[f"{name}.weight"].astype(np.float32)
        change = (b.astype(np.float32) @ a.astype(np.float32)) * np.float32(scaling)
        merged[f"{name}.weight"] = (weight + change).astype(NUMPY_DTYPES[dtype])
    return merged


def noisy_pair(
    tmp_path: Path, *, dtype: str = "BF16", noise: float = 0.02, scaling: float = 2.0
) -> dict[str, Any]:
    """A pair whose adapted weights change by the adapter and noise, everything else equal."""
    base = random_weights(dtype=dtype)
    factors = random_factors(ADAPTED, RANK)
    tuned = add_delta(base, factors, scaling=scaling, dtype=dtype)
    rng = np.random.default_rng(7)
    for name in ADAPTED:
        key = f"{name}.weight"
        moved = tuned[key].astype(np.float64) + noise * rng.standard_normal(tuned[key].shape)
        tuned[key] = moved.astype(NUMPY_DTYPES[dtype])
    return {
        "base": base,
        "tuned": tuned,
        "factors": factors,
        "paths": (
            write_checkpoint(tmp_path / "base", base),
            write_checkpoint(tmp_path / "tuned", tuned, shards=3),
            write_adapter(tmp_path / "adapter", factors, alpha=scaling * RANK),
        ),
    }

"""A model: ``config.json``, a zero byte, the header of ``model.safetensors``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import json_mutation
from loragraft.inspection import inspect
from target import check_page, header_of, refusals, scratch, sparse_safetensors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

_LAYER = "model.layers.0"
_WORDS = (
    *[
        "model_type",
        "architectures",
        "num_experts",
        "quantization_config",
        "weight_block_size",
        "quant_method",
    ],
    *[
        "text_config",
        "llama",
        "qwen3_moe",
        "gpt_oss",
        "mixtral",
        "dbrx",
        "fp8",
        "F8_E8M0",
        "U8",
        "lm_head.weight",
    ],
    f"{_LAYER}.mlp.experts.1.up_proj.weight",
    f"{_LAYER}.self_attn.q_proj.weight_scale",
    f"{_LAYER}.self_attn.q_proj.qweight",
    f"model.layers.{'1' * 900}.self_attn.q_proj.weight",
    "model.layers.٣.self_attn.q_proj.weight",
    "model.embed_tokens.weight",
)
_ATTENTION = {
    f"model.layers.{i}.self_attn.{name}_proj.weight": ("BF16", [4, 4], 32)
    for i in range(2)
    for name in "qkvo"
}
_LLAMA = {
    **_ATTENTION,
    "model.embed_tokens.weight": ("F32", [8, 4], 128),
    "model.norm.weight": ("F32", [4], 16),
}
_FP8 = {
    "model.layers.0.self_attn.q_proj.weight": ("F8_E4M3", [4, 4], 16),
    "model.layers.0.self_attn.q_proj.weight_scale_inv": ("F32", [2, 2], 16),
}
_MOE = {
    **_ATTENTION,
    **{
        f"model.layers.0.mlp.experts.{e}.{name}_proj.weight": ("BF16", [4, 4], 32)
        for e in range(2)
        for name in ("up", "gate", "down")
    },
}
_MXFP4 = {
    "model.layers.0.mlp.experts.gate_up_proj_blocks": ("U8", [2, 8, 1, 16], 256),
    "model.layers.0.mlp.experts.gate_up_proj_scales": ("U8", [2, 8, 1], 16),
    "model.layers.0.mlp.experts.down_proj_blocks": ("U8", [2, 32, 1, 16], 1024),
    "model.layers.0.mlp.experts.down_proj_scales": ("U8", [2, 32, 1], 64),
}
_FP8_CONFIG = {
    "model_type": "deepseek_v3",
    "quantization_config": {"quant_method": "fp8", "weight_block_size": [2, 2]},
}
_GPT_OSS = {
    "model_type": "gpt_oss",
    "architectures": ["GptOssForCausalLM"],
    "num_local_experts": 2,
    "hidden_size": 32,
    "text_config": {"model_type": "x"},
}
_MODELS = (
    ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, _LLAMA),
    (_FP8_CONFIG, _FP8),
    ({"model_type": "qwen3_moe", "num_experts": 2, "hidden_size": 4}, _MOE),
    (_GPT_OSS, _MXFP4),
    ({"model_type": "unheard"}, {"a.weight": ("F32", [2, 3], 24)}),
)


def seeds() -> Iterator[bytes]:
    for config, tensors in _MODELS:
        yield json.dumps(config).encode() + b"\0" + json.dumps(header_of(tensors)).encode()


def check(data: bytes) -> None:
    config, _, header = data.partition(b"\0")
    directory = scratch() / "checkpoint"
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_bytes(config)
    sparse_safetensors(directory / "model.safetensors", header)
    with refusals():
        found = inspect(directory)
        check_page(found)
        assert found.tensors >= sum(kind.modules for kind in found.kinds if not kind.experts)


def mutate(data: bytes, random: Random) -> bytes:
    config, _, header = data.partition(b"\0")
    if random.random() < 0.5:
        config = json_mutation.mutate(config, random, _WORDS)
    else:
        header = json_mutation.mutate(header, random, _WORDS)
    return config + b"\0" + header

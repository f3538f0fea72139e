"""Checkpoints of real size without their data: true headers over sparse files."""

from __future__ import annotations

import json
import math
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    #: dtype and shape.
    Tensor = tuple[str, tuple[int, ...]]

_BYTES: Final = {"BF16": 2, "F32": 4, "F8_E4M3": 1}
_PER_SHARD: Final = 6000
_BLOCK: Final = 128


def write_sparse(directory: Path, tensors: Mapping[str, Tensor], config: object) -> Path:
    """Write shards, an index and config.json; no file takes more than its header on disk."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config))
    names = list(tensors)
    parts = [names[i : i + _PER_SHARD] for i in range(0, len(names), _PER_SHARD)]
    places = {}
    for number, part in enumerate(parts, 1):
        file = f"model-{number:05}-of-{len(parts):05}.safetensors"
        places.update(dict.fromkeys(part, file))
        _write_shard(directory / file, {name: tensors[name] for name in part})
    index = {"metadata": {}, "weight_map": places}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory


def _write_shard(path: Path, tensors: Mapping[str, Tensor]) -> None:
    header, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + math.prod(shape) * _BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        os.truncate(file.fileno(), 8 + len(text) + end)


def qwen35_moe() -> tuple[dict[str, Tensor], dict[str, object]]:
    """Qwen3.5-35B-A3B: 40 layers, 256 experts in fused tensors, linear attention in 30 of them."""
    hidden, experts, width, layers = 2048, 256, 512, 40
    kinds = ["full_attention" if i % 4 == 3 else "linear_attention" for i in range(layers)]
    tensors: dict[str, tuple[int, ...]] = {}
    for i, kind in enumerate(kinds):
        block = f"model.language_model.layers.{i}"
        if kind == "full_attention":
            tensors |= {
                f"{block}.self_attn.q_proj.weight": (8192, hidden),
                f"{block}.self_attn.k_proj.weight": (512, hidden),
                f"{block}.self_attn.v_proj.weight": (512, hidden),
                f"{block}.self_attn.o_proj.weight": (hidden, 4096),
                f"{block}.self_attn.q_norm.weight": (256,),
                f"{block}.self_attn.k_norm.weight": (256,),
            }
        else:
            tensors |= {
                f"{block}.linear_attn.in_proj_qkv.weight": (8192, hidden),
                f"{block}.linear_attn.in_proj_z.weight": (4096, hidden),
                f"{block}.linear_attn.in_proj_a.weight": (32, hidden),
                f"{block}.linear_attn.in_proj_b.weight": (32, hidden),
                f"{block}.linear_attn.out_proj.weight": (hidden, 4096),
                f"{block}.linear_attn.conv1d.weight": (8192, 1, 4),
                f"{block}.linear_attn.A_log": (32,),
                f"{block}.linear_attn.dt_bias": (32,),
                f"{block}.linear_attn.norm.weight": (128,),
            }
        tensors |= {
            f"{block}.mlp.experts.gate_up_proj": (experts, 2 * width, hidden),
            f"{block}.mlp.experts.down_proj": (experts, hidden, width),
            f"{block}.mlp.gate.weight": (experts, hidden),
            f"{block}.mlp.shared_expert.gate_proj.weight": (width, hidden),
            f"{block}.mlp.shared_expert.up_proj.weight": (width, hidden),
            f"{block}.mlp.shared_expert.down_proj.weight": (hidden, width),
            f"{block}.mlp.shared_expert_gate.weight": (1, hidden),
            f"{block}.input_layernorm.weight": (hidden,),
            f"{block}.post_attention_layernorm.weight": (hidden,),
        }
    tensors |= {
        "model.language_model.embed_tokens.weight": (248320, hidden),
        "model.language_model.norm.weight": (hidden,),
        "lm_head.weight": (248320, hidden),
    }
    text = {
        "model_type": "qwen3_5_moe_text",
        "hidden_size": hidden,
        "moe_intermediate_size": width,
        "shared_expert_intermediate_size": width,
        "num_experts": experts,
        "num_hidden_layers": layers,
        "layer_types": kinds,
    }
    config = {
        "architectures": ["Qwen3_5MoeForConditionalGeneration"],
        "model_type": "qwen3_5_moe",
        "text_config": text,
    }
    return {name: ("BF16", shape) for name, shape in tensors.items()}, config


def deepseek_v3() -> tuple[dict[str, Tensor], dict[str, object]]:
    """DeepSeek-V3: 671 thousand million weights in fp8, a scale for every 128 x 128 of them."""
    hidden, experts, width, dense, layers = 7168, 256, 2048, 18432, 61
    tensors: dict[str, Tensor] = {}
    for i in range(layers):
        block = f"model.layers.{i}"
        matrices = {
            "self_attn.q_a_proj": (1536, hidden),
            "self_attn.q_b_proj": (24576, 1536),
            "self_attn.kv_a_proj_with_mqa": (576, hidden),
            "self_attn.kv_b_proj": (32768, 512),
            "self_attn.o_proj": (hidden, 16384),
        }
        matrices |= dict(_gated("mlp", hidden, dense) if i < 3 else _routed(hidden, width, experts))
        for name, shape in matrices.items():
            scales = (-(-shape[0] // _BLOCK), -(-shape[1] // _BLOCK))
            tensors[f"{block}.{name}.weight"] = ("F8_E4M3", shape)
            tensors[f"{block}.{name}.weight_scale_inv"] = ("F32", scales)
        vectors = {"input_layernorm": hidden, "post_attention_layernorm": hidden}
        vectors |= {"self_attn.q_a_layernorm": 1536, "self_attn.kv_a_layernorm": 512}
        for name, size in vectors.items():
            tensors[f"{block}.{name}.weight"] = ("BF16", (size,))
        if i >= 3:
            tensors[f"{block}.mlp.gate.weight"] = ("BF16", (experts, hidden))
            tensors[f"{block}.mlp.gate.e_score_correction_bias"] = ("F32", (experts,))
    for name in ("model.embed_tokens", "lm_head"):
        tensors[f"{name}.weight"] = ("BF16", (129280, hidden))
    tensors["model.norm.weight"] = ("BF16", (hidden,))
    config = {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "hidden_size": hidden,
        "intermediate_size": dense,
        "moe_intermediate_size": width,
        "n_routed_experts": experts,
        "n_shared_experts": 1,
        "first_k_dense_replace": 3,
        "num_hidden_layers": layers,
        "quantization_config": {
            "quant_method": "fp8",
            "fmt": "e4m3",
            "weight_block_size": [_BLOCK, _BLOCK],
        },
    }
    return tensors, config


def _routed(hidden: int, width: int, experts: int) -> Iterator[tuple[str, tuple[int, int]]]:
    yield from _gated("mlp.shared_experts", hidden, width)
    for expert in range(experts):
        yield from _gated(f"mlp.experts.{expert}", hidden, width)


def _gated(path: str, hidden: int, width: int) -> Iterator[tuple[str, tuple[int, int]]]:
    yield f"{path}.gate_proj", (width, hidden)
    yield f"{path}.up_proj", (width, hidden)
    yield f"{path}.down_proj", (hidden, width)

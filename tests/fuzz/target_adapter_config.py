"""An adapter: ``adapter_config.json``, a zero byte, the header of ``adapter_model.safetensors``."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import json_mutation
from loragraft.adapter.contents import whole_tensors
from loragraft.adapter.peft import read_adapter
from loragraft.inspection import inspect
from target import HERE, check_page, header_of, refusals, scratch, sparse_safetensors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

_PREFIX = "base_model.model."
_LAYER = f"{_PREFIX}model.layers.0."
_WORDS = (
    "rank_pattern", "alpha_pattern", "target_parameters", "target_modules", "modules_to_save",
    "trainable_token_indices", "use_rslora", "LORA", "q_proj", "(a+)+b", ".*", "(", "(.*)*\\d",
    f"{_LAYER}self_attn.{'a' * 40}.lora_A.weight", f"{_LAYER}self_attn.{'a' * 40}.lora_B.weight",
    f"{_PREFIX}a.{'1' * 900}.b.lora_A.weight", f"{_PREFIX}a.{'1' * 5000}.b.lora_B.weight",
    "mlp.experts.down_proj", "down_proj", [0, 1], [[0]], {"q_proj": 2},
)  # fmt: skip
_TENSORS = {
    f"{_LAYER}self_attn.q_proj.lora_A.weight": ("F32", [2, 3], 24),
    f"{_LAYER}self_attn.q_proj.lora_B.weight": ("BF16", [4, 2], 16),
    f"{_LAYER}mlp.experts.lora_A.weight": ("F16", [4, 3], 24),
    f"{_LAYER}mlp.experts.lora_B.weight": ("F16", [5, 4], 40),
    f"{_LAYER}mlp.experts.base_layer.lora_A.weight": ("F16", [4, 3], 24),
    f"{_LAYER}mlp.experts.base_layer.lora_B.weight": ("F16", [5, 4], 40),
    f"{_PREFIX}model.embed_tokens.lora_embedding_A": ("F32", [2, 3], 24),
    f"{_PREFIX}model.embed_tokens.lora_embedding_B": ("F32", [4, 2], 32),
    f"{_PREFIX}model.norm.weight": ("F32", [3], 12),
    f"{_PREFIX}lm_head.token_adapter.trainable_tokens_delta": ("F32", [2, 3], 24),
    f"{_LAYER}self_attn.q_proj.base_layer.bias": ("F32", [4], 16),
}
_CONFIG = {
    "peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_rslora": False, "bias": "none",
    "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"^model.layers.0.self_attn.q_proj": 8},
    "target_modules": ["q_proj", "embed_tokens"], "modules_to_save": ["norm"],
    "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    "trainable_token_indices": {"lm_head": [5, 7]}, "layers_to_transform": None,
}  # fmt: skip


def seeds() -> Iterator[bytes]:
    header = json.dumps(header_of(_TENSORS)).encode()
    for config in (
        _CONFIG,
        {"peft_type": "LORA", "r": 2},
        _CONFIG | {"target_modules": r".*_proj"},
    ):
        yield json.dumps(config).encode() + b"\0" + header
    real = HERE.parents[1] / "python/loragraft/demo/adapter/adapter_config.json"
    few = header_of(dict(list(_TENSORS.items())[:2]))
    yield real.read_bytes() + b"\0" + json.dumps(few).encode()


def check(data: bytes) -> None:
    config, _, header = data.partition(b"\0")
    directory = scratch() / "adapter"
    directory.mkdir(exist_ok=True)
    (directory / "adapter_config.json").write_bytes(config)
    size = sparse_safetensors(directory / "adapter_model.safetensors", header)
    with refusals():
        adapter = read_adapter(directory)
        for module in adapter.modules:
            rows = module.rank * max(1, module.experts)
            assert module.rank >= 1
            assert math.isfinite(module.scaling)
            assert (module.lora_A.shape[0], module.lora_B.shape[1]) == (rows, rows)
        whole_tensors(adapter.config, adapter.other_tensors)
        # It reads the factors, and huge ones take their time.
        if size < 1 << 16:
            check_page(inspect(directory))


def mutate(data: bytes, random: Random) -> bytes:
    config, _, header = data.partition(b"\0")
    if random.random() < 0.7:
        config = json_mutation.mutate(config, random, _WORDS)
    else:
        header = json_mutation.mutate(header, random, _WORDS)
    return config + b"\0" + header

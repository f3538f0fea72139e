"""Tiny random models of the families that GGUF output is proven for, as transformers saves them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import torch
import transformers
from transformers import AutoConfig

if TYPE_CHECKING:
    from pathlib import Path

VOCABULARY: Final = 96
_DENSE: Final[dict[str, Any]] = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "tie_word_embeddings": False,
}
_EXPERTS: Final[dict[str, Any]] = {
    **_DENSE,
    "moe_intermediate_size": 48,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "decoder_sparse_step": 1,
}
_GEMMA: Final = {"query_pre_attn_scalar": 16, "sliding_window": 8, "tie_word_embeddings": True}
_MIXED: Final = ["linear_attention", "full_attention"]
_LINEAR: Final = {
    "shared_expert_intermediate_size": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4,
    "layer_types": _MIXED,
    "full_attention_interval": 2,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1e4,
        "partial_rotary_factor": 0.5,
        "mrope_section": [2, 1, 1],
    },
}
#: Case -> ``model_type`` and what its configuration has beside the defaults of its class.
CASES: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "llama": ("llama", _DENSE),
    "llama, tied": ("llama", _DENSE | {"tie_word_embeddings": True}),
    "llama, no grouped heads": ("llama", _DENSE | {"num_key_value_heads": 4}),
    "mistral": ("mistral", _DENSE | {"sliding_window": None}),
    "smollm3": ("smollm3", _DENSE | {"no_rope_layers": [1, 1], "use_sliding_window": False}),
    "qwen2": ("qwen2", _DENSE),
    "qwen3": ("qwen3", _DENSE),
    "gemma": ("gemma", _DENSE | {"tie_word_embeddings": True}),
    "gemma2": ("gemma2", _DENSE | _GEMMA),
    "gemma3_text": ("gemma3_text", _DENSE | _GEMMA),
    "phi3": ("phi3", _DENSE | {"sliding_window": None}),
    "mixtral": ("mixtral", _DENSE | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2_moe": (
        "qwen2_moe",
        _EXPERTS | {"shared_expert_intermediate_size": 32, "mlp_only_layers": []},
    ),
    "qwen3_moe": ("qwen3_moe", _EXPERTS | {"norm_topk_prob": True, "mlp_only_layers": []}),
    "qwen3_5_moe_text": ("qwen3_5_moe_text", _EXPERTS | _LINEAR),
    "gpt_oss": (
        "gpt_oss",
        _DENSE
        | {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention"],
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        },
    ),
}


def build(case: str, directory: Path, *, seed: int = 0) -> Path:
    """Save a random model of a case in float32; norms and biases are random too."""
    model_type, settings = CASES[case]
    config = AutoConfig.for_model(model_type, **settings)
    name = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, name)(config).float().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                width = parameter.shape[-1]
                noise = torch.randn_like(parameter)
                if parameter.dim() == 1:
                    parameter.add_(0.1 * noise)
                else:
                    parameter.copy_(noise / width**0.5)
    model.save_pretrained(directory)
    # llama.cpp's converter counts the words of Gemma's vocabulary.
    words = {f"w{number}": number for number in range(VOCABULARY)}
    tokenizer = {"model": {"vocab": words}, "added_tokens": []}
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    return directory

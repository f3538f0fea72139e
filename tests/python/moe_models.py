"""Tiny random models of every mixture-of-experts class of transformers, on disk.

A configuration gives every field that its class, or one inside it, has in `_SIZES` that small
value, and what its model type needs beside that is in `_SPECIAL`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
import transformers
from transformers import PreTrainedConfig
from transformers.modeling_outputs import MoeCausalLMOutputWithPast

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

# Llama 4 of transformers 5.24 asks what came of a text for what came of images.
if not hasattr(MoeCausalLMOutputWithPast, "image_outputs"):
    MoeCausalLMOutputWithPast.image_outputs = None

_BY_SIZE: Final = {
    0: "pad_token_id num_nextn_predict_layers",
    1: """
        bos_token_id num_key_value_heads swa_num_key_value_heads num_global_key_value_heads n_group
        topk_group num_expert_group n_groups mamba_n_groups first_k_dense_replace num_dense_layers
        num_shared_experts n_shared_experts moe_num_shared_experts zero_expert_num depth
        encoder_layers decoder_layers num_sparse_encoder_layers num_sparse_decoder_layers
        """,
    2: """
        eos_token_id num_hidden_layers num_layers n_layers num_decoder_layers num_attention_heads
        n_heads num_heads encoder_attention_heads decoder_attention_heads swa_num_attention_heads
        linear_num_heads linear_num_key_heads linear_num_value_heads index_n_heads o_groups
        num_experts_per_tok moe_topk moe_k moe_top_k top_k_experts
        """,
    4: """
        num_experts num_local_experts n_routed_experts moe_num_experts patch_size index_topk
        qk_rope_head_dim qk_nope_head_dim linear_head_dim linear_key_head_dim linear_value_head_dim
        hidden_size_per_layer_input mamba_d_state mamba_num_heads mamba_head_dim mamba_n_heads
        ssm_state_size d_rel o_lora_rank n_mel_bins mel_vocab_size
        """,
    6: "q_lora_rank kv_lora_rank",
    8: """
        head_dim v_head_dim swa_head_dim global_head_dim index_head_dim kv_channels d_kv
        mamba_d_head image_size feature_size output_channels moe_hidden_size num_mel_bins
        router_hidden_size sliding_window
        """,
    12: """
        moe_intermediate_size expert_ffn_hidden_size ffn_hidden_size d_ff encoder_ffn_dim
        decoder_ffn_dim shared_expert_intermediate_size shared_experts_intermediate_size
        moe_shared_expert_intermediate_size shared_intermediate_size share_expert_dim
        """,
    16: """
        hidden_size d_model text_hidden_size projector_hidden_size out_hidden_size output_dim
        output_proj_dims mlp_dim adapter_in_dim adapter_out_dim adapter_input_size
        downsample_hidden_size position_embedding_size num_position_embeddings projector_input_dim
        projector_output_dim vision_output_dim
        """,
    20: "intermediate_size dense_intermediate_size",
    48: "vocab_size unpadded_vocab_size vocab_size_per_layer_input",
    64: "max_position_embeddings max_seq_len",
}
_SIZES: Final[dict[str, Any]] = {
    name: size for size, names in _BY_SIZE.items() for name in names.split()
} | {
    "mlp_layer_types": ["dense", "sparse"],
    "downsample_channels": [8, 16],
    "depths": (1, 1),
    "hidden_sizes": (8, 16),
    "patch_sizes": (4, 4),
}
_VISION: Final = {
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "head_dim": 8,
    "image_size": 8,
    "patch_size": 4,
}
_SPECIAL: Final[dict[str, dict[str, Any]]] = {
    "": {"spatial_merge_size": 2},
    "aria": {
        "vision_config": _VISION | {"model_type": "idefics3_vision"},
        "projector_patch_to_query_dict": {4: 2},
    },
    "axk2": {"num_key_value_heads": 2},
    "dbrx": {
        "attn_config": {"rope_theta": 1e4, "kv_n_heads": 1, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 12, "moe_num_experts": 3, "moe_top_k": 2},
    },
    "deepseek_ocr2_text": {"num_key_value_heads": 2},
    "deepseek_v32": {"num_key_value_heads": 2},
    "deepseek_v4": {"mlp_layer_types": ["hash_moe", "moe"]},
    "diffusion_gemma": {
        "vision_config": _VISION
        | {"model_type": "gemma4_vision", "num_key_value_heads": 1, "position_embedding_size": 16},
    },
    "dots3_note_text": {"num_key_value_heads": 2, "per_layer_config": None},
    "ernie4_5_vl_moe_text": {
        "moe_intermediate_size": [12, 10],
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "mrope_section": [1, 1, 2],
        },
    },
    "flint": {"mlp_only_layers": [0]},
    "gemma4_text": {"enable_moe_block": True},
    "glm4v_moe_text": {
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "partial_rotary_factor": 0.5,
            "mrope_section": [0, 1, 1],
        },
    },
    "glm_moe_dsa": {"num_key_value_heads": 2},
    "glm5_next_text": {"num_key_value_heads": 2, "index_topk": 16, "qk_rope_head_dim": 0},
    "kimi_k25": {
        "text_config": {
            "model_type": "deepseek_v3",
            "hidden_size": 16,
            "intermediate_size": 20,
            "moe_intermediate_size": 12,
            "num_hidden_layers": 2,
            "first_k_dense_replace": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "q_lora_rank": 6,
            "kv_lora_rank": 6,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 4,
            "v_head_dim": 8,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 1,
            "topk_group": 1,
            "vocab_size": 48,
        }
    },
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "longcat_flash": {"num_key_value_heads": 2, "head_dim": 4},
    "mistral_large4_text": {"num_key_value_heads": 2},
    "mistral_large4": {"vision_config": _VISION | {"model_type": "pixtral"}},
    "nllb-moe": {"encoder_sparse_step": 1, "decoder_sparse_step": 1},
    "qwen3_omni_moe": {
        "enable_audio_output": True,
        "code2wav_config": {
            "decoder_dim": 32,
            "hidden_size": 16,
            "intermediate_size": 20,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "codebook_size": 8,
            "num_quantizers": 2,
        },
    },
    "qwen3_omni_moe_talker_text": {"shared_expert_intermediate_size": 12},
    "zaya": {"num_experts_per_tok": 1},
}

#: ``model_type`` -> the class that a checkpoint of it is loaded with.
FAMILIES: Final = {
    "afmoe": "AfmoeForCausalLM",
    "aria": "AriaForConditionalGeneration",
    "aria_text": "AriaTextForCausalLM",
    "axk1": "AXK1ForCausalLM",
    "axk2": "AXK2ForCausalLM",
    "bailing_hybrid": "BailingHybridForCausalLM",
    "beam": "BeamForCausalLM",
    "cohere2_moe": "Cohere2MoeForCausalLM",
    "dbrx": "DbrxForCausalLM",
    "deepseek_ocr2": "DeepseekOcr2ForConditionalGeneration",
    "deepseek_v2": "DeepseekV2ForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "deepseek_v32": "DeepseekV32ForCausalLM",
    "deepseek_v4": "DeepseekV4ForCausalLM",
    "diffusion_gemma": "DiffusionGemmaForBlockDiffusion",
    "dots1": "Dots1ForCausalLM",
    "dots3_note": "Dots3NoteForConditionalGeneration",
    "dots3_note_text": "Dots3NoteForCausalLM",
    "ernie4_5_moe": "Ernie4_5_MoeForCausalLM",
    "ernie4_5_vl_moe": "Ernie4_5_VLMoeForConditionalGeneration",
    "exaone_moe": "ExaoneMoeForCausalLM",
    "flex_olmo": "FlexOlmoForCausalLM",
    "flint": "FlintForCausalLM",
    "gemma4": "Gemma4ForConditionalGeneration",
    "gemma4_text": "Gemma4ForCausalLM",
    "glm4_moe": "Glm4MoeForCausalLM",
    "glm4_moe_lite": "Glm4MoeLiteForCausalLM",
    "glm4v_moe": "Glm4vMoeForConditionalGeneration",
    "glm5_next": "Glm5NextForConditionalGeneration",
    "glm_moe_dsa": "GlmMoeDsaForCausalLM",
    "gpt_oss": "GptOssForCausalLM",
    "granitemoe": "GraniteMoeForCausalLM",
    "granitemoe_swa": "GraniteMoeSWAForCausalLM",
    "granitemoehybrid": "GraniteMoeHybridForCausalLM",
    "granitemoeshared": "GraniteMoeSharedForCausalLM",
    "hunyuan_v1_moe": "HunYuanMoEV1ForCausalLM",
    "hy_v3": "HYV3ForCausalLM",
    "hy_v4": "HYV4ForCausalLM",
    "inkling2": "Inkling2ForConditionalGeneration",
    "inkling2_text": "Inkling2ForCausalLM",
    "inkling_mm_model": "InklingForConditionalGeneration",
    "inkling_text": "InklingForCausalLM",
    "jamba": "JambaForCausalLM",
    "jetmoe": "JetMoeForCausalLM",
    "kimi_k25": "Kimi_K25ForConditionalGeneration",
    "kimi_linear": "KimiLinearForCausalLM",
    "kolibri1": "Kolibri1ForCausalLM",
    "laguna": "LagunaForCausalLM",
    "lfm2_moe": "Lfm2MoeForCausalLM",
    "llama4": "Llama4ForConditionalGeneration",
    "llama4_text": "Llama4ForCausalLM",
    "longcat_flash": "LongcatFlashForCausalLM",
    "mellum": "MellumForCausalLM",
    "mimo_v2_flash": "MiMoV2FlashForCausalLM",
    "minimax": "MiniMaxForCausalLM",
    "minimax_m2": "MiniMaxM2ForCausalLM",
    "minimax_m3_vl": "MiniMaxM3SparseForConditionalGeneration",
    "minimax_m3_vl_text": "MiniMaxM3VLForCausalLM",
    "mistral4": "Mistral4ForCausalLM",
    "mistral_large4": "MistralLarge4ForConditionalGeneration",
    "mixtral": "MixtralForCausalLM",
    "muse_spark": "MuseSparkForConditionalGeneration",
    "nemotron_h": "NemotronHForCausalLM",
    "olmoe": "OlmoeForCausalLM",
    "openai_privacy_filter": "OpenAIPrivacyFilterForTokenClassification",
    "phimoe": "PhimoeForCausalLM",
    "qwen2_moe": "Qwen2MoeForCausalLM",
    "qwen3_5_moe": "Qwen3_5MoeForConditionalGeneration",
    "qwen3_5_moe_text": "Qwen3_5MoeForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "qwen3_next": "Qwen3NextForCausalLM",
    "qwen3_omni_moe": "Qwen3OmniMoeForConditionalGeneration",
    "qwen3_omni_moe_thinker": "Qwen3OmniMoeThinkerForConditionalGeneration",
    "qwen3_vl_moe": "Qwen3VLMoeForConditionalGeneration",
    "qwen4_exp": "Qwen4ExpForConditionalGeneration",
    "qwen4_exp_text": "Qwen4ExpForCausalLM",
    "solar_open": "SolarOpenForCausalLM",
    "step3p7": "Step3p7ForConditionalGeneration",
    "unlimited_ocr": "UnlimitedOcrForConditionalGeneration",
    "zaya": "ZayaForCausalLM",
}
#: Those whose experts are linear layers of their own in memory, one by one.
PLAIN: Final = {
    "nllb-moe": "NllbMoeForConditionalGeneration",
    "switch_transformers": "SwitchTransformersForConditionalGeneration",
}


def make(model_type: str, *, seed: int = 0) -> PreTrainedModel:
    """Return a random model in float32; no two of its weights are equal but by chance."""
    model_class = getattr(transformers, (FAMILIES | PLAIN)[model_type])
    config = model_class.config_class(**_settings(model_class.config_class))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                width = parameter.shape[-1] if parameter.dim() else 1
                parameter.copy_(torch.randn_like(parameter) / max(1, width) ** 0.5)
    made: PreTrainedModel = model
    return made


def save(model: PreTrainedModel, directory: Path, *, as_in_memory: bool = False) -> Path:
    """Save a model as the Hub's files of its family are, or with its names in memory."""
    model.save_pretrained(directory, save_original_format=not as_in_memory)
    return directory


def _settings(config_class: type[PreTrainedConfig]) -> dict[str, Any]:
    fields = {
        name for base in config_class.__mro__ for name in getattr(base, "__annotations__", ())
    }
    settings = {name: size for name, size in _SIZES.items() if name in fields}
    for name, inner in config_class.sub_configs.items():
        known = isinstance(inner, type) and issubclass(inner, PreTrainedConfig)
        if known and inner is not PreTrainedConfig:
            settings[name] = _settings(inner)
    return settings | _SPECIAL.get(config_class.model_type, {})

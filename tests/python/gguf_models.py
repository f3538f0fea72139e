"""GGUF models written here from transformers' files, by formulas that share nothing with ours.

``llama_models`` makes the models. Names and orders are those that llama.cpp's converter gives.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import gguf
import numpy as np

import tiny_models

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    Array = np.ndarray[Any, Any]

READABLE = (
    "llama", "llama, tied", "llama, no grouped heads", "mistral", "smollm3", "qwen2", "qwen3",
    "gemma", "gemma2", "gemma3_text", "phi3", "mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss",
)  # fmt: skip
ARCHS = {
    "mistral": "llama", "mixtral": "llama", "gemma3_text": "gemma3", "gpt_oss": "gpt-oss",
    "qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe", "qwen3_5_moe_text": "qwen35moe",
}  # fmt: skip
_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "mlp.router": "ffn_gate_inp",
    "block_sparse_moe.gate": "ffn_gate_inp",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    "linear_attn.in_proj_qkv": "attn_qkv",
    "linear_attn.in_proj_z": "attn_gate",
    "linear_attn.in_proj_a": "ssm_alpha",
    "linear_attn.in_proj_b": "ssm_beta",
    "linear_attn.out_proj": "ssm_out",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_EXPERT = re.compile(r"(?:mlp|block_sparse_moe)\.experts\.(\d+)\.(\w+)\.weight")
_KINDS = {
    "w1": "gate", "w3": "up", "w2": "down",
    "gate_proj": "gate", "up_proj": "up", "down_proj": "down",
}  # fmt: skip


class Source(NamedTuple):
    """A model as transformers saved it."""

    config: dict[str, Any]
    tensors: dict[str, Array]

    @property
    def model_type(self) -> str:
        return str(self.config["model_type"])

    @property
    def arch(self) -> str:
        return ARCHS.get(self.model_type, self.model_type)


def read(directory: Path) -> Source:
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    tensors = tiny_models.read_tensors(directory)
    return Source(config, {name: tensor.float().numpy() for name, tensor in tensors.items()})


def rotary(rows: Array, heads: int) -> Array:
    """Rows i and i + d/2 of each head side by side."""
    head = len(rows) // heads
    return np.concatenate(
        [
            np.stack([block[: head // 2], block[head // 2 :]], 1).reshape(block.shape)
            for block in np.split(rows, heads)
        ]
    )


def tiled(rows: Array, keys: int, values: int) -> Array:
    """Heads that lie by the key they belong to, round by round."""
    heads = np.split(rows, values)
    share = values // keys
    return np.concatenate([heads[k * share + i] for i in range(share) for k in range(keys)])


def ggml_name(module: str, config: Mapping[str, Any]) -> str:
    """What a module is called."""
    if module in _OUTSIDE:
        return _OUTSIDE[module]
    _, _, block, rest = module.split(".", 3)
    if rest == "post_attention_layernorm" and config["model_type"] in {"gemma2", "gemma3_text"}:
        return f"blk.{block}.post_attention_norm"
    return f"blk.{block}.{_NAMES[rest]}"


def arranged(name: str, weight: Array, config: Mapping[str, Any]) -> Array:
    """A weight with its rows (or columns) as llama.cpp has them; also for the B of a pair."""
    kind = config["model_type"]
    if kind in {"llama", "mistral", "mixtral", "smollm3"} and ".self_attn." in name:
        if ".q_proj" in name:
            return rotary(weight, config["num_attention_heads"])
        if ".k_proj" in name:
            return rotary(weight, config["num_key_value_heads"])
    if ".linear_attn." in name:
        keys, values = config["linear_num_key_heads"], config["linear_num_value_heads"]
        if ".in_proj_qkv" in name:
            front = 2 * keys * config["linear_key_head_dim"]
            return np.concatenate([weight[:front], tiled(weight[front:], keys, values)])
        if ".out_proj" in name:
            return np.ascontiguousarray(tiled(weight.T, keys, values).T)
        return tiled(weight, keys, values)
    return weight


def converted(source: Source) -> dict[str, Array]:
    """Every tensor of the GGUF."""
    config = source.config
    found: dict[str, Array] = {}
    experts: dict[str, dict[int, Array]] = {}
    for name, weight in source.tensors.items():
        module, _, last = name.rpartition(".")
        if (match := re.fullmatch(r"model\.layers\.(\d+)\.(.*)", name)) is None:
            found[f"{ggml_name(module, config)}.{last}"] = _norm(name, weight, config)
            continue
        block, rest = match.groups()
        if (one := _EXPERT.fullmatch(rest)) is not None:
            stack = experts.setdefault(f"blk.{block}.ffn_{_KINDS[one[2]]}_exps.weight", {})
            stack[int(one[1])] = weight
        elif ".experts." in rest:
            found |= dict(_gpt_oss(int(block), rest.rpartition(".")[2], weight))
        elif rest.endswith("sinks"):
            found[f"blk.{block}.attn_sinks.weight"] = weight
        else:
            value = _norm(name, arranged(name, weight, config), config)
            found[f"{ggml_name(module, config)}.{last}"] = value
    for name, stack in experts.items():
        found[name] = np.stack([stack[e] for e in range(len(stack))])
    return found


def _norm(name: str, weight: Array, config: Mapping[str, Any]) -> Array:
    if config["model_type"].startswith("gemma") and "norm" in name:
        return weight + np.float32(1.0)
    return weight.reshape(-1) if name.endswith("shared_expert_gate.weight") else weight


def _gpt_oss(block: int, last: str, weight: Array) -> Iterator[tuple[str, Array]]:
    """[E, in, out] on disk, gate and up in turn; [E, out, in] and apart in the GGUF."""
    end = "bias" if last.endswith("_bias") else "weight"
    turned = weight if end == "bias" else weight.swapaxes(1, 2)
    if last.startswith("gate_up"):
        for kind, first in (("gate", 0), ("up", 1)):
            half = np.ascontiguousarray(turned[:, first::2])
            yield f"blk.{block}.ffn_{kind}_exps.{end}", half
    else:
        yield f"blk.{block}.ffn_down_exps.{end}", np.ascontiguousarray(turned)


def in_dtype(dtype: str) -> Callable[[str, Array], tuple[Array, Any]]:
    """Store matrices in a type as the converter does; the rest, and odd rows, in F32."""
    kind = gguf.GGMLQuantizationType[dtype]
    block = gguf.GGML_QUANT_SIZES[kind][0]

    def store(name: str, values: Array) -> tuple[Array, Any]:
        plain = values.ndim < 2 or not name.endswith(".weight") or values.shape[-1] % block
        chosen = gguf.GGMLQuantizationType.F32 if plain else kind
        return gguf.quants.quantize(values, chosen), chosen

    return store


def write(
    path: Path,
    source: Source,
    *,
    dtype: str = "F32",
    shards: int = 1,
    store: Callable[[str, Array], tuple[Array, Any]] | None = None,
    **metadata: int | str,
) -> Path:
    """Write a model's GGUF, or several; returns the first.

    Args:
        path: The file; of several ``-00001-of-0000N`` is added to its stem.
        source: The model.
        dtype: Of its matrices.
        shards: How many files.
        store: Instead of a dtype.
        **metadata: Of the first file beside what is usual; ``block_count`` and so on replace that.
    """
    tensors = converted(source)
    files = [path]
    if shards > 1:
        files = [
            path.with_name(f"{path.stem}-{i + 1:05}-of-{shards:05}.gguf") for i in range(shards)
        ]
    for number, file in enumerate(files):
        writer = gguf.GGUFWriter(file, source.arch)
        if number == 0:
            _metadata(writer, source, metadata)
        if shards > 1:
            writer.add_uint16("split.no", number)
            writer.add_uint16("split.count", shards)
            writer.add_int32("split.tensors.count", len(tensors))
        for name in list(tensors)[number::shards]:
            values, kind = (store or in_dtype(dtype))(name, np.ascontiguousarray(tensors[name]))
            writer.add_tensor(name, values, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return files[0]


def _metadata(writer: gguf.GGUFWriter, source: Source, more: Mapping[str, int | str]) -> None:
    config, arch = source.config, source.arch
    numbers = {
        "block_count": config["num_hidden_layers"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": config.get("head_dim"),
        "expert_count": config.get("num_experts") or config.get("num_local_experts"),
        "expert_feed_forward_length": config.get("moe_intermediate_size"),
        "vocab_size": config["vocab_size"],
        "ssm.group_count": config.get("linear_num_key_heads"),
        "ssm.time_step_rank": config.get("linear_num_value_heads"),
        "ssm.state_size": config.get("linear_key_head_dim"),
    }
    if "linear_value_head_dim" in config:
        values = config["linear_num_value_heads"]
        numbers["ssm.inner_size"] = config["linear_value_head_dim"] * values
    writer.add_type("model")
    for key, usual in numbers.items():
        value = more.get(key.replace(".", "_"), usual)
        if value is not None:
            writer.add_uint32(f"{arch}.{key}", value)

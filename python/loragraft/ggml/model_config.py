"""The config.json that a GGUF file would have, from its metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from loragraft.errors import FormatError
from loragraft.ggml.naming import MOST_BLOCKS
from loragraft.wording import quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loragraft.ggml.family import GgmlFamily

#: Key of the metadata behind the architecture's name -> key of config.json.
_NUMBERS: Final = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "expert_count": "num_experts",
    "expert_feed_forward_length": "moe_intermediate_size",
    "vocab_size": "vocab_size",
    "ssm.group_count": "linear_num_key_heads",
    "ssm.time_step_rank": "linear_num_value_heads",
    "ssm.state_size": "linear_key_head_dim",
    "ssm.inner_size": "linear_value_head_dim",
}


def config_of(
    metadata: Mapping[str, Any], family: GgmlFamily, *, tied: bool, where: str
) -> dict[str, Any]:
    """Return what config.json says of a model, as far as loragraft asks.

    Args:
        metadata: Of the file.
        family: Of the model.
        tied: Head and embedding are one matrix.
        where: The file, for messages.

    Raises:
        FormatError: A number has the wrong type, or blocks differ in it; or no file could have so
            many blocks.
    """
    config: dict[str, Any] = {
        "model_type": family.model_types[0],
        "architectures": [family.model_class],
        "tie_word_embeddings": tied,
    }
    for key, name in _NUMBERS.items():
        value = metadata.get(f"{family.arch}.{key}")
        if value is not None:
            config[name] = _number(value, f"{family.arch}.{key}", where)
    blocks = config.get("num_hidden_layers", 0)
    if not 0 < blocks <= MOST_BLOCKS:
        raise FormatError(
            f"{where}: {family.arch}.block_count is {blocks}, expected 1 to {MOST_BLOCKS}"
        )
    if config.get("linear_num_value_heads"):
        # ssm.inner_size is that of all heads together.
        together = config.get("linear_value_head_dim", 0)
        config["linear_value_head_dim"] = together // config["linear_num_value_heads"]
    if "num_experts" in config:
        config["num_local_experts"] = config["num_experts"]
    return config


def _number(value: Any, key: str, where: str) -> int:
    values = value if isinstance(value, list) else [value]
    if len(set(map(repr, values))) == 1 and type(values[0]) is int and values[0] >= 0:
        return values[0]
    raise FormatError(
        f"{where}: {key} is {quoted(value)}, expected one number that holds for all blocks"
    )

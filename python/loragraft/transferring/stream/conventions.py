"""What config.json does not say and the code of a model does: scales and gains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from loragraft.architecture.fused import text_config

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Models whose norms multiply by 1 + weight (transformers, modeling_gemma.py and others).
_ONE_PLUS: Final = frozenset(
    {
        "gemma",
        "gemma2",
        "gemma3",
        "gemma3_text",
        "paligemma",
        "recurrent_gemma",
        "qwen3_next",
    }
)
#: Models that multiply embeddings by the root of their width.
_ROOT: Final = frozenset(
    {"gemma", "gemma2", "gemma3", "gemma3_text", "gemma3n", "gemma3n_text", "recurrent_gemma"}
)
#: Keys of config.json under which others name the factor.
_FACTORS: Final = ("embedding_multiplier", "scale_emb")


def gain_offset(config: Mapping[str, Any] | None) -> float:
    """Return what the norms of a model add to their weight: 1 in Gemma, else 0."""
    return 1.0 if _types(config) & _ONE_PLUS else 0.0


def embedding_scale(config: Mapping[str, Any] | None, width: int) -> float:
    """Return what a model multiplies its embeddings with."""
    if _types(config) & _ROOT:
        return float(width**0.5)
    inner = text_config(config)
    for key in _FACTORS:
        value = inner.get(key)
        if isinstance(value, int | float) and value > 0:
            return float(value)
    return 1.0


def query_heads(config: Mapping[str, Any] | None) -> int:
    """Return the number of query heads, 0 where config.json has none."""
    value = text_config(config).get("num_attention_heads")
    return value if type(value) is int and value > 0 else 0


def _types(config: Mapping[str, Any] | None) -> set[object]:
    found = ((config or {}).get("model_type"), text_config(config).get("model_type"))
    return {one for one in found if isinstance(one, str)}

"""Tensors of a checkpoint that transformers does not load: blocks for multi-token prediction."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from loragraft.architecture.families import Family

_BLOCK: Final = re.compile(r"(?:model\.)?(?:language_model\.)?(?:model\.)?layers\.([0-9]+)\.")
_COUNTS: Final = ("num_hidden_layers", "num_layers", "n_layers", "n_layer")


def why_unloaded(name: str, family: Family, config: Mapping[str, Any] | None) -> str | None:
    """Return why the model in memory does not have a tensor, None where it has.

    Args:
        name: Of the tensor on disk.
        family: The checkpoint's family.
        config: Content of config.json, None where there is none.
    """
    if any(re.search(pattern, name) for pattern in family.unloaded):
        return "not loaded by transformers"
    match = _BLOCK.match(name) if family.experts else None
    if match is None:
        return None
    blocks = _blocks(config)
    if blocks is None or int(match[1]) < blocks:
        return None
    return f"not loaded by transformers: config.json gives the model {blocks} blocks"


def _blocks(config: Mapping[str, Any] | None) -> int | None:
    if config is None:
        return None
    text = config.get("text_config")
    parts = [config, text if isinstance(text, Mapping) else {}]
    found = [n for part in parts for key in _COUNTS if type(n := part.get(key)) is int]
    return max(found, default=None)

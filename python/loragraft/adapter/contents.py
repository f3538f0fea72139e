"""What an adapter in PEFT's format holds beside LoRA factors."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from loragraft.errors import FormatError
from loragraft.wording import counted, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loragraft.tensor_entry import TensorEntry

_PREFIX: Final = "base_model.model."
_KEY: Final = re.compile(re.escape(_PREFIX) + r"(.+)\.([^.]+)")
_INSIDE: Final = (".modules_to_save.", ".original_module.")
_ROWS: Final = ".token_adapter"
_ROWS_LEAF: Final = "trainable_tokens_delta"
_BASE_LAYER: Final = ".base_layer"
_LIMIT: Final = 2**63

#: How a tensor is carried, in the words of a report.
BY_MODULES: Final = "whole, by modules_to_save"
BY_BIAS: Final = "over the base's, by bias"


def by_tokens(rows: int) -> str:
    """Return how rows are carried, in the words of a report."""
    return f"{counted(rows, 'row')}, by trainable_token_indices"


@dataclass(frozen=True, slots=True)
class TokenRows:
    """Rows that replace those of an embedding or head.

    Attributes:
        tokens: Their numbers, in the order of the tensor's rows.
        rows: Shape ``(len(tokens), d)``.
    """

    tokens: tuple[int, ...]
    rows: TensorEntry


@dataclass(frozen=True, slots=True)
class Contents:
    """Tensors of an adapter by the module that they belong to, in memory.

    Attributes:
        modules: Modules that replace those of the base: name of the tensor in the module -> tensor.
        biases: Biases that replace those of the base's layers.
        tokens: Rows that replace those of embeddings; a head that is tied follows.
        copies: What PEFT writes beside modules with a bias and does not merge.
        strays: What PEFT loads over the base's tensor of that name, or not at all.
    """

    modules: Mapping[str, Mapping[str, TensorEntry]]
    biases: Mapping[str, TensorEntry]
    tokens: Mapping[str, TokenRows]
    copies: Mapping[str, TensorEntry]
    strays: Mapping[str, TensorEntry]


def whole_tensors(config: Mapping[str, Any], others: Mapping[str, TensorEntry]) -> Contents:
    """Sort the tensors of an adapter that are no LoRA factors.

    Args:
        config: The content of adapter_config.json.
        others: The tensors by key, such as `PeftAdapter.other_tensors`.

    Raises:
        FormatError: The config does not say which tokens rows belong to, or there are not as many.
    """
    entries: list[str] = config.get("modules_to_save") or []
    modules: dict[str, dict[str, TensorEntry]] = {}
    biases, tokens, copies, strays = {}, {}, {}, {}
    for key, entry in others.items():
        match = _KEY.fullmatch(key)
        if match is None:
            strays[key] = entry
            continue
        path, leaf = match[1], match[2]
        holder = _saved_module(f"{path}.{leaf}", entries)
        if leaf == _ROWS_LEAF and path.endswith(_ROWS):
            module = path.removesuffix(_ROWS)
            tokens[module] = TokenRows(_tokens(config, module, entry), entry)
        elif holder and key.startswith(_INSIDE, len(_PREFIX) + len(holder)):
            copies[key] = entry
        elif holder:
            modules.setdefault(holder, {})[f"{path}.{leaf}"[len(holder) + 1 :]] = entry
        elif leaf == "bias":
            biases[path.replace(_BASE_LAYER, "")] = entry
        elif config.get("ensure_weight_tying") and leaf == "weight" and _BASE_LAYER not in path:
            # A head that is tied is in the file, but not in the list that PEFT writes.
            modules.setdefault(path, {})[leaf] = entry
        else:
            strays[key] = entry
    return Contents(modules, biases, tokens, copies, strays)


def _saved_module(path: str, entries: Sequence[str]) -> str:
    """Return the outermost module in a tensor's path that modules_to_save hits, or nothing."""
    parts = path.split(".")
    for stop in range(1, len(parts)):
        module = ".".join(parts[:stop])
        # PEFT compares the ends of paths as text, dot or not.
        if module.endswith(tuple(entries)):
            return module
    return ""


def _tokens(config: Mapping[str, Any], module: str, entry: TensorEntry) -> tuple[int, ...]:
    """Return the tokens whose rows a tensor holds."""
    given = config.get("trainable_token_indices")
    if isinstance(given, dict):
        given = next((ids for name, ids in given.items() if module.endswith(name)), None)
    if not isinstance(given, list) or not all(type(i) is int and 0 <= i < _LIMIT for i in given):
        raise FormatError(
            f"{entry.path.name}: trainable_token_indices gives {quoted(given)} for {module},"
            " expected a list of token numbers"
        )
    if len(set(given)) != len(given):
        raise FormatError(
            f"{entry.path.name}: trainable_token_indices gives a token of {module} twice, expected"
            " every token once"
        )
    if len(entry.shape) != 2 or entry.shape[0] != len(given):
        raise FormatError(
            f"{entry.path.name}: tensor {entry.name} has shape {list(entry.shape)}, expected"
            f" {len(given)} rows: so many tokens trainable_token_indices gives"
        )
    return tuple(given)

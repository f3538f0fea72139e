"""What an adapter in PEFT's format holds beside the factors of linear layers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from loragraft.errors import FormatError
from loragraft.wording import quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from loragraft.tensor_entry import TensorEntry

_KEY: Final = re.compile(r"base_model\.model\.(.+)\.([^.]+)")
_ROWS: Final = ".token_adapter"
_ROWS_LEAF: Final = "trainable_tokens_delta"
_BASE_LAYER: Final = ".base_layer"
_FACTOR: Final = re.compile(r"lora_embedding_([AB])")


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
        embeddings: ``lora_embedding_A`` ``[r, V]`` and ``lora_embedding_B`` ``[d, r]``.
        strays: What PEFT loads over the base's tensor of that name, or not at all.
    """

    modules: Mapping[str, Mapping[str, TensorEntry]]
    biases: Mapping[str, TensorEntry]
    tokens: Mapping[str, TokenRows]
    embeddings: Mapping[str, tuple[TensorEntry, TensorEntry]]
    strays: Mapping[str, TensorEntry]


def whole_tensors(config: Mapping[str, Any], others: Mapping[str, TensorEntry]) -> Contents:
    """Sort the tensors of an adapter that are no factors of linear layers.

    Args:
        config: The content of adapter_config.json.
        others: The tensors by key, such as `PeftAdapter.other_tensors`.

    Raises:
        FormatError: The config does not say which tokens rows belong to, or there are not as many;
            an embedding has one of its two factors.
    """
    entries = _strings(config, "modules_to_save")
    modules: dict[str, dict[str, TensorEntry]] = {}
    biases, tokens, strays = {}, {}, {}
    factors: dict[str, dict[str, TensorEntry]] = {}
    for key, entry in others.items():
        match = _KEY.fullmatch(key)
        if match is None:
            strays[key] = entry
            continue
        path, leaf = match[1], match[2]
        holder = _saved_module(f"{path}.{leaf}", entries)
        factor = _FACTOR.fullmatch(leaf)
        if factor:
            factors.setdefault(path, {})[factor[1]] = entry
        elif leaf == _ROWS_LEAF and path.endswith(_ROWS):
            module = path.removesuffix(_ROWS)
            tokens[module] = TokenRows(_tokens(config, module, entry), entry)
        elif holder:
            modules.setdefault(holder, {})[f"{path}.{leaf}"[len(holder) + 1 :]] = entry
        elif leaf == "bias":
            biases[path.replace(_BASE_LAYER, "")] = entry
        else:
            strays[key] = entry
    return Contents(modules, biases, tokens, dict(_pairs(factors)), strays)


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
    if not isinstance(given, list) or not all(type(i) is int and i >= 0 for i in given):
        raise FormatError(
            f"{entry.path.name}: trainable_token_indices gives {quoted(given)} for {module},"
            " expected a list of token numbers"
        )
    if len(entry.shape) != 2 or entry.shape[0] != len(given):
        raise FormatError(
            f"{entry.path.name}: tensor {entry.name} has shape {list(entry.shape)}, expected"
            f" {len(given)} rows: so many tokens trainable_token_indices gives"
        )
    return tuple(given)


def _pairs(
    factors: Mapping[str, Mapping[str, TensorEntry]],
) -> Iterator[tuple[str, tuple[TensorEntry, TensorEntry]]]:
    for module, sides in factors.items():
        if len(sides) != 2:
            entry = next(iter(sides.values()))
            raise FormatError(
                f"{entry.path.name}: {module} has {entry.name} alone; expected lora_embedding_A"
                " and lora_embedding_B"
            )
        yield module, (sides["A"], sides["B"])


def _strings(config: Mapping[str, Any], key: str) -> list[str]:
    values = config.get(key) or []
    if not isinstance(values, list) or not all(isinstance(v, str) and v for v in values):
        raise FormatError(f"adapter_config.json: {key} is {quoted(values)}, expected names")
    return values

"""A model in GGUF files, under the names that transformers has for its tensors."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from loragraft.errors import FormatError, MismatchError
from loragraft.ggml.family import families, family_of_arch
from loragraft.ggml.header import read_gguf_header
from loragraft.ggml.model_config import config_of
from loragraft.ggml.naming import GgmlNames
from loragraft.ggml.row_order import order_of
from loragraft.ggml.tensor_types import Q8_0
from loragraft.natural_order import natural_key
from loragraft.number_formats import WEIGHT_DTYPES
from loragraft.tensor_entry import TensorEntry
from loragraft.wording import listed, quoted, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from loragraft.ggml.family import GgmlFamily
    from loragraft.ggml.header import GgufHeader
    from loragraft.ggml.row_order import Order

_BLOCK: Final = re.compile(r"blk\.([0-9]{1,6})\.(.+)")
_SPLIT: Final = re.compile(r"(.*)-([0-9]{5})-of-([0-9]{5})\.gguf")
#: What weights of a model are read in.
READ: Final = (*WEIGHT_DTYPES, Q8_0)
_EXPERTS: Final = {
    "ffn_gate_exps": "mlp.experts.gate_proj",
    "ffn_up_exps": "mlp.experts.up_proj",
    "ffn_down_exps": "mlp.experts.down_proj",
    "ffn_gate_up_exps": "mlp.experts.gate_up_proj",
}
#: A matrix of one row, which some files have as a vector.
_ONE_ROW: Final = ".shared_expert_gate.weight"
_OUTSIDE: Final = ("model.embed_tokens", "model.norm", "lm_head")
#: What modules of a block are called, in whatever family.
_INSIDE: Final = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "self_attn.qkv_proj",
    "self_attn.q_norm",
    "self_attn.k_norm",
    "self_attn.sinks",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
    "mlp.gate_up_proj",
    "mlp.gate",
    "mlp.router",
    "mlp.shared_expert.gate_proj",
    "mlp.shared_expert.up_proj",
    "mlp.shared_expert.down_proj",
    "mlp.shared_expert_gate",
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)


class GgmlStorage(NamedTuple):
    """What names and shapes of a model's tensors do not tell.

    Attributes:
        orders: Name of a tensor -> in which order its rows lie.
        interleaved: Rows of gate and up alternate in the model in memory.
    """

    orders: Mapping[str, Order]
    interleaved: bool = False


class GgufModel(NamedTuple):
    """A model.

    Attributes:
        tensors: By the names of transformers; dtypes are ggml's where safetensors has none.
        shards: The files.
        config: What its config.json would say.
        storage: How its tensors lie.
    """

    tensors: dict[str, TensorEntry]
    shards: tuple[Path, ...]
    config: Mapping[str, Any]
    storage: GgmlStorage


def read_model(path: Path, *, skeleton: bool = False) -> GgufModel:
    """Read the headers of a model's GGUF files.

    Args:
        path: The file, or the first of those that the model was split into.
        skeleton: Names and shapes are wanted alone, whatever the weights are stored as: every
            tensor is said to be F32, and none can be read.

    Raises:
        FormatError: A file cannot be read, is malformed, is no model, or is quantised to fewer bits
            than 8.
        MismatchError: Its family is not proven.
        MissingDependencyError: The package ``gguf`` is missing.
    """
    shards = _shards(path)
    headers = [read_gguf_header(shard) for shard in shards]
    first = headers[0][0]
    _check_split(first, shards)
    if first.text("general.type") not in {"", "model"}:
        raise FormatError(
            f"{shown(path)}: general.type is {quoted(first.text('general.type'))}, expected a model"
        )
    names = [name for header, _ in headers for name in header.tensors]
    family = _family(first, names, path, skeleton=skeleton)
    config = config_of(first.metadata, family, tied="output.weight" not in names, where=shown(path))
    table = _table(family, config)
    tensors: dict[str, TensorEntry] = {}
    for shard, (header, identity) in zip(shards, headers, strict=True):
        for tensor in header.tensors.values():
            name = _renamed(tensor.name, table)
            if name in tensors:
                raise FormatError(f"{shown(shard)}: tensor {quoted(tensor.name)} occurs twice")
            shape = tensor.shape
            if name.endswith(_ONE_ROW) and len(shape) == 1:
                shape = (1, *shape)
            kind, size = ("F32", 0) if skeleton else (tensor.type, tensor.end - tensor.begin)
            tensors[name] = TensorEntry(name, kind, shape, shard, tensor.begin, size, identity)
    if not skeleton:
        _check_types(tensors.values())
    orders = dict(_orders(tensors, family, config))
    storage = GgmlStorage(MappingProxyType(orders), family.interleaved)
    return GgufModel(tensors, shards, MappingProxyType(config), storage)


def _shards(path: Path) -> tuple[Path, ...]:
    match = _SPLIT.fullmatch(path.name)
    if match is None or not int(match[3]):
        return (path,)
    stem, _, count = match.groups()
    return tuple(
        path.with_name(f"{stem}-{number:05}-of-{count}.gguf") for number in range(1, int(count) + 1)
    )


def _check_types(entries: Iterable[TensorEntry]) -> None:
    """Refuse a model that few weights could be read of: the adapter would lack the rest."""
    matrices = [
        entry for entry in entries if len(entry.shape) > 1 and entry.name.startswith("model.layers")
    ]
    coarse = [entry for entry in matrices if entry.dtype not in READ]
    if coarse:
        raise FormatError(
            f"{shown(coarse[0].path)}: {len(coarse)} of {len(matrices)} matrices are stored as"
            f" {listed(sorted({entry.dtype for entry in coarse}))}, such as {coarse[0].name};"
            f" expected {listed(READ)}: give such a GGUF of the model, or its safetensors files"
        )


def _check_split(first: GgufHeader, shards: tuple[Path, ...]) -> None:
    """Refuse one file of several that its name does not tell of: the rest would be missing."""
    count = first.metadata.get("split.count", 0)
    if count not in (0, 1, len(shards)):
        raise FormatError(
            f"{shown(shards[0])}: split.count is {quoted(count)}, but the file's name tells of"
            f" {len(shards)}: expected all parts side by side as NAME-00001-of-00002.gguf and so on"
        )


def _family(header: GgufHeader, names: list[str], path: Path, *, skeleton: bool) -> GgmlFamily:
    arch = header.text("general.architecture")
    has_experts = any("_exps." in name for name in names)
    family = family_of_arch(arch, has_experts=has_experts)
    if family is None:
        known = sorted({one.arch for one in families()})
        raise MismatchError(
            f"{shown(path)}: general.architecture is {quoted(arch)}, expected one that is proven:"
            f" {listed(known)}"
        )
    if not (family.readable or skeleton):
        raise MismatchError(
            f"{shown(path)}: GGUF files of {arch} are not read: llama.cpp keeps columns of their"
            " weights in another order; give the safetensors files"
        )
    return family


def _table(family: GgmlFamily, config: Mapping[str, Any]) -> dict[str, str]:
    """Return ggml's names -> transformers' names of modules."""
    names = GgmlNames(family, config)
    modules = [name for name in _INSIDE if name not in family.absent]
    modules += [name for name in family.orders if name not in modules]
    table: dict[str, str] = {}
    for module in _OUTSIDE:
        table.setdefault(names.of(module) or "", module)
    for block in range(config["num_hidden_layers"]):
        for module in modules:
            path = f"model.layers.{block}.{module}"
            table.setdefault(names.of(path) or "", path)
    table.pop("", None)
    return table


def _renamed(name: str, table: Mapping[str, str]) -> str:
    stem, _, last = name.rpartition(".")
    match = _BLOCK.fullmatch(stem)
    if match and match[2] in _EXPERTS:
        return f"model.layers.{match[1]}.{_EXPERTS[match[2]]}.{last}"
    return f"{table[stem]}.{last}" if stem in table else name


def _orders(
    tensors: Mapping[str, TensorEntry], family: GgmlFamily, config: Mapping[str, Any]
) -> Iterator[tuple[str, Order]]:
    for name in sorted(tensors, key=natural_key):
        module, shape = name.removesuffix(".weight"), tensors[name].shape
        if module != name and len(shape) == 2:
            order = order_of(family, module, (shape[0], shape[1]), config)
            if order is not None:
                yield name, order

"""Reads adapters in PEFT's format: ``adapter_config.json`` beside ``adapter_model.safetensors``."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from loragraft.adapter.parameters import ParameterNames
from loragraft.adapter.peft_config import (
    CONFIG_FILE,
    GGUF_FILE,
    LAYOUT_KEY,
    TENSORS_FILE,
    factor_keys,
)
from loragraft.adapter.settings import Settings
from loragraft.errors import FormatError
from loragraft.input_file import read_bytes
from loragraft.json_text import parse_object
from loragraft.natural_order import natural_key
from loragraft.number_formats import WEIGHT_DTYPES
from loragraft.safetensors_header import read_identified_header
from loragraft.tensor_entry import TensorEntry
from loragraft.wording import shown

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping

    from loragraft.architecture.address import Address

    #: Factors by side, A and B, under (module, how often ``base_layer`` occurs in the name).
    Pairs = dict[tuple[str, int], dict[str, TensorEntry]]

_FACTOR: Final = re.compile(r"base_model\.model\.(.+?)((?:\.base_layer)*)\.lora_([AB])\.weight")
_EMBEDDING: Final = re.compile(r"base_model\.model\.(.+)\.lora_embedding_([AB])")
_WRAPPER: Final = ".base_layer"
_MAX_CONFIG_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class AdapterModule:
    """The LoRA factors of one module: its weight changes by ``scaling``·B·A.

    The factors of experts that share a parameter are packed, see `packing`, and in and out are what
    PEFT takes for them: the model says whether they are the weight's.

    Attributes:
        name: Module path, without ``base_model.model.`` and ``.lora_A.weight``; with the name of
            the parameter where experts share it.
        rank: Rank of the factors, of each expert's where there are several.
        alpha: Alpha that applies to this module.
        scaling: alpha / rank, or alpha / √rank with rsLoRA.
        lora_A: A, shape ``(rank, in)``; ``(experts · rank, in)`` of experts.
        lora_B: B, shape ``(out, rank)``; ``(out, rank · experts)`` of experts.
        experts: How many experts' factors these are; 0 for a weight of its own.
    """

    name: str
    rank: int
    alpha: float
    scaling: float
    lora_A: TensorEntry  # noqa: N815 -- PEFT's names
    lora_B: TensorEntry  # noqa: N815
    experts: int = 0


@dataclass(frozen=True, slots=True)
class PeftAdapter:
    """A LoRA adapter as its files describe it; no tensor is read yet.

    Attributes:
        directory: Where its files lie.
        config: Content of adapter_config.json.
        modules: Its modules in natural order.
        other_tensors: Tensors that are no LoRA factors, such as whole saved modules.
        layout: How its experts are laid out, where loragraft has noted it: ``peft`` or
            ``peft-legacy``; else empty, for the files of PEFT do not tell.
    """

    directory: Path
    config: Mapping[str, Any]
    modules: tuple[AdapterModule, ...]
    other_tensors: Mapping[str, TensorEntry]
    layout: str = ""


def read_adapter(
    path: str | os.PathLike[str], config: Mapping[str, Any] | None = None
) -> PeftAdapter:
    """Read an adapter's config and the header of its tensors.

    Args:
        path: The adapter's directory, or the tensor file in it.
        config: What is to be its config, where the file is not written yet.

    Raises:
        FormatError: A file is missing or malformed, the factors do not fit each other or the
            config, or the adapter is something other than plain LoRA.
    """
    directory, tensors_file = _locate(Path(path))
    if config is None:
        _refuse_gguf(Path(path))
    config_file = directory / CONFIG_FILE
    if config is None:
        config = _read_config(config_file)
    settings = Settings.parse(config, shown(config_file))
    parameters = ParameterNames(config, shown(config_file))
    entries, metadata = _read_entries(tensors_file)
    pairs, others = _sort_tensors(entries)
    if not pairs:
        raise FormatError(
            f"{shown(tensors_file)}: no LoRA factors; expected tensors named"
            f" {' and '.join(factor_keys('MODULE'))}"
        )
    modules = [
        _module(address, pairs[address.module, depth], settings, shown(tensors_file))
        for depth, address in _addresses(pairs, parameters)
    ]
    modules.sort(key=lambda module: natural_key(module.name))
    return PeftAdapter(directory, config, tuple(modules), others, metadata.get(LAYOUT_KEY, ""))


def _refuse_gguf(place: Path) -> None:
    """Tell of the way out where there is an adapter in llama.cpp's format alone."""
    file = place if place.suffix == ".gguf" else place / GGUF_FILE
    if file.is_file() and (file is place or not (place / CONFIG_FILE).exists()):
        raise FormatError(
            f"{shown(file)}: an adapter for llama.cpp, expected one in PEFT's format: loragraft"
            " export ADAPTER.gguf --base BASE --format peft -o OUT makes one"
        )


def _read_config(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise FormatError(
            f"{shown(path.parent)}: no {CONFIG_FILE}; expected a finished PEFT adapter: it is"
            " written last, so the run that made this was perhaps stopped"
        )
    return parse_object(read_bytes(path, _MAX_CONFIG_BYTES), shown(path))


def _locate(path: Path) -> tuple[Path, Path]:
    """Return the adapter's directory and its tensor file."""
    if path.is_dir():
        tensors_file = path / TENSORS_FILE
        if not tensors_file.exists() and (path / "adapter_model.bin").exists():
            raise FormatError(
                f"{shown(path)}: adapter_model.bin is a pickle, which is never read; load it with"
                " PEFT and save it again to get adapter_model.safetensors"
            )
        if not tensors_file.exists():
            raise FormatError(f"{shown(path)}: no {TENSORS_FILE}; expected a PEFT adapter")
        return path, tensors_file
    if not path.exists():
        raise FormatError(f"{shown(path)}: no such directory; expected a PEFT adapter")
    return path.parent, path


def _read_entries(path: Path) -> tuple[list[TensorEntry], Mapping[str, str]]:
    header, identity = read_identified_header(path)
    entries = [
        TensorEntry(t.name, t.dtype, t.shape, path, t.begin, t.end - t.begin, identity)
        for t in header.tensors.values()
    ]
    return entries, header.metadata


def _sort_tensors(entries: Iterable[TensorEntry]) -> tuple[Pairs, dict[str, TensorEntry]]:
    """Sort tensors into factors and the rest."""
    pairs: Pairs = {}
    others: dict[str, TensorEntry] = {}
    for entry in entries:
        match = _FACTOR.fullmatch(entry.name)
        embedding = _EMBEDDING.fullmatch(entry.name)
        if embedding is not None:
            pairs.setdefault((embedding[1], 0), {})[embedding[2]] = entry
        elif match is None:
            others[entry.name] = entry
        else:
            depth = len(match[2]) // len(_WRAPPER)
            pairs.setdefault((match[1], depth), {})[match[3]] = entry
    return pairs, others


def _addresses(pairs: Pairs, parameters: ParameterNames) -> Iterator[tuple[int, Address]]:
    depths: dict[str, list[int]] = {}
    for module, depth in pairs:
        depths.setdefault(module, []).append(depth)
    for module, found in depths.items():
        yield from parameters.of_module(module, found)


def _module(
    address: Address, pair: Mapping[str, TensorEntry], settings: Settings, where: str
) -> AdapterModule:
    """Check one pair of factors against each other and the config."""
    name = f"{address.module}.{address.parameter}" if address.parameter else address.module
    _check_factors(name, pair, where)
    lora_A, lora_B = pair["A"], pair["B"]
    rank, alpha = settings.rank(name), settings.alpha(name)
    experts, rest = divmod(lora_A.shape[0], rank)
    fits = rest == 0 and experts > 0 and (experts == 1 or bool(address.parameter))
    if not fits or lora_B.shape[1] != lora_A.shape[0]:
        of_each = f" {rank} for each expert" if address.parameter else f" {rank}"
        times = "E*" if address.parameter else ""
        raise FormatError(
            f"{where}: module {name} has A of shape {list(lora_A.shape)} and B of shape"
            f" {list(lora_B.shape)}, expected [{times}{rank}, in] and [out, {times}{rank}]:"
            f" {CONFIG_FILE} gives it rank{of_each}"
        )
    if experts == 1 and address.parameter == "weight":
        name = address.module
    scaling = alpha / (math.sqrt(rank) if settings.rslora else rank)
    return AdapterModule(name, rank, alpha, scaling, lora_A, lora_B, experts if experts > 1 else 0)


def _check_factors(name: str, pair: Mapping[str, TensorEntry], where: str) -> None:
    for side in ("A", "B"):
        if side not in pair:
            raise FormatError(f"{where}: module {name} has no lora_{side}.weight; expected A and B")
        entry = pair[side]
        if entry.dtype not in WEIGHT_DTYPES or len(entry.shape) != 2 or 0 in entry.shape:
            raise FormatError(
                f"{where}: tensor {entry.name} is {entry.dtype} of shape {list(entry.shape)},"
                f" expected a matrix in one of {', '.join(WEIGHT_DTYPES)}"
            )

"""Reads adapters in llama.cpp's format: one GGUF file of low-rank pairs."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from loragraft.errors import FormatError
from loragraft.ggml.header import read_gguf_header
from loragraft.ggml.tensor_types import Q8_0
from loragraft.number_formats import WEIGHT_DTYPES
from loragraft.tensor_entry import TensorEntry
from loragraft.wording import quoted, shown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_ENDS: Final = (".lora_a", ".lora_b")
_ALPHA: Final = "adapter.lora.alpha"
_EMBEDDING: Final = "token_embd.weight"


class GgufPair(NamedTuple):
    """The factors of a weight, as they are stored.

    Attributes:
        name: ggml's name of the weight.
        a: ``[rank, in]``, with the experts before it; ``[tokens, rank]`` of ``token_embd``.
        b: ``[out, rank]``, with the experts before it.
        scaling: What the product is multiplied with.
    """

    name: str
    a: TensorEntry
    b: TensorEntry
    scaling: float

    @property
    def rank(self) -> int:
        """Columns of B."""
        return self.b.shape[-1]

    @property
    def experts(self) -> int:
        """How many experts there are; 0 for a weight of its own."""
        return self.b.shape[0] if len(self.b.shape) == 3 else 0

    @property
    def embedding(self) -> bool:
        """Whether A is stored transposed."""
        return self.name == _EMBEDDING

    @property
    def shape(self) -> tuple[int, int]:
        """``(out, in)`` of the weight, or of each expert's."""
        return self.b.shape[-2], self.a.shape[0] if self.embedding else self.a.shape[-1]


class GgufAdapter(NamedTuple):
    """An adapter as its file describes it; no tensor is read yet.

    Attributes:
        path: The file.
        arch: ``general.architecture`` of models that take it.
        alpha: The one alpha; 0 for none.
        pairs: By the names of the weights.
        ignored: Tensors that llama.cpp loads and does not use.
        metadata: All of the file's.
    """

    path: Path
    arch: str
    alpha: float
    pairs: Mapping[str, GgufPair]
    ignored: tuple[TensorEntry, ...]
    metadata: Mapping[str, Any]


def read_gguf_adapter(path: Path) -> GgufAdapter:
    """Read the header of an adapter's file.

    Raises:
        FormatError: It cannot be read, is malformed, or is no LoRA adapter.
    """
    header, identity = read_gguf_header(path)
    where = shown(path)
    for key, expected in (("general.type", "adapter"), ("adapter.type", "lora")):
        if header.text(key) != expected:
            raise FormatError(
                f"{where}: {key} is {quoted(header.metadata.get(key))}, expected {expected!r}: a"
                " LoRA adapter"
            )
    if header.metadata.get("adapter.alora.invocation_tokens"):
        raise FormatError(
            f"{where}: an activated LoRA (adapter.alora.invocation_tokens), expected plain LoRA"
        )
    alpha = header.metadata.get(_ALPHA, 0.0)
    if type(alpha) not in {int, float} or not math.isfinite(alpha):
        raise FormatError(f"{where}: {_ALPHA} is {quoted(alpha)}, expected a finite number")
    halves: dict[str, dict[str, TensorEntry]] = {}
    ignored = []
    for tensor in header.tensors.values():
        size = tensor.end - tensor.begin
        entry = TensorEntry(
            tensor.name, tensor.type, tensor.shape, path, tensor.begin, size, identity
        )
        stem, end = tensor.name[:-7], tensor.name[-7:]
        if end in _ENDS:
            halves.setdefault(stem, {})[end] = entry
        elif tensor.name.endswith("_norm.weight"):
            ignored.append(entry)
        else:
            raise FormatError(
                f"{where}: tensor {quoted(tensor.name)} is no factor, expected names that end with"
                " .lora_a or .lora_b"
            )
    if not halves:
        raise FormatError(f"{where}: holds no factors, expected tensors that end with .lora_a")
    pairs = {name: _pair(name, found, float(alpha), where) for name, found in halves.items()}
    arch = header.text("general.architecture")
    return GgufAdapter(
        path, arch, float(alpha), MappingProxyType(pairs), tuple(ignored), header.metadata
    )


def _pair(name: str, found: Mapping[str, TensorEntry], alpha: float, where: str) -> GgufPair:
    for end in _ENDS:
        if end not in found:
            raise FormatError(f"{where}: {quoted(name)} has no {end[1:]}, expected A and B")
    a, b = (found[end] for end in _ENDS)
    for entry in (a, b):
        if entry.dtype not in {*WEIGHT_DTYPES, Q8_0}:
            raise FormatError(
                f"{where}: tensor {quoted(entry.name)} is {entry.dtype}, expected one of"
                f" {', '.join(WEIGHT_DTYPES)}, {Q8_0}"
            )
    inner = -1 if name == _EMBEDDING else -2
    fits = len(a.shape) == len(b.shape) in {2, 3} and a.shape[:-2] == b.shape[:-2]
    if not fits or a.shape[inner] != b.shape[-1] or (name == _EMBEDDING and len(a.shape) == 3):
        raise FormatError(
            f"{where}: {quoted(name)} has A of shape {list(a.shape)} and B of shape"
            f" {list(b.shape)}, expected [rank, in] and [out, rank]"
        )
    return GgufPair(name, a, b, alpha / b.shape[-1] if alpha else 1.0)

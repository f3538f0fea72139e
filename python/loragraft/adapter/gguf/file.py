"""Writes the GGUF file of an adapter."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from loragraft.adapter.delta import DeltaReader
from loragraft.adapter.narrow import narrow
from loragraft.atomic_file import AtomicFile
from loragraft.ggml.naming import require_gguf
from loragraft.number_formats import DTYPES
from loragraft.tensor_reader import TensorReader

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from loragraft.adapter.gguf.pair import Pair
    from loragraft.adapter.gguf.pairing import Pairing

_PAD: Final = 32


class Scale(NamedTuple):
    """How a file says what its products are multiplied with.

    llama.cpp knows one alpha: it multiplies by alpha / rank, the rank being each pair's own, and by
    nothing at all where alpha is 0.

    Attributes:
        alpha: ``adapter.lora.alpha``.
        folded: B is multiplied by the scaling of its module as it is written.
    """

    alpha: float
    folded: bool


def scale_of(pairs: Iterable[Pair]) -> Scale:
    """Return one alpha that is right for all pairs, or 0 with scalings in B."""
    wanted = {(scaling, scaling * pair.rank) for pair in pairs for scaling in pair.scalings}
    with np.errstate(over="ignore"):
        alphas = {np.float32(alpha) for _, alpha in wanted}
    if len(alphas) == 1 and 0 < abs(next(iter(alphas))) < np.inf:
        return Scale(float(next(iter(alphas))), folded=False)
    return Scale(0.0, folded={scaling for scaling, _ in wanted} != {1.0})


def dtype_of(pair: Pair, scale: Scale, asked: str = "auto") -> str:
    """Return the safetensors code of what a pair is stored in.

    Args:
        pair: The pair.
        scale: Of the file; a B that is multiplied with something needs room.
        asked: A code, or ``auto`` for what keeps every number as it is.
    """
    if asked != "auto":
        return asked
    modules = [placement.module for placement in pair.modules]
    dtypes = {entry.dtype for one in modules for entry in (one.lora_A, one.lora_B)}
    return dtypes.pop() if len(dtypes) == 1 and not scale.folded else "F32"


def write_gguf(path: Path, pairing: Pairing, *, name: str, dtype: str = "auto") -> int:
    """Write an adapter for llama.cpp.

    Args:
        path: Destination; its directory must exist.
        pairing: What it holds.
        name: Of the adapter, for whoever lists the file.
        dtype: ``BF16``, ``F16``, ``F32``, or ``auto`` for what keeps every number as it is.

    Returns:
        The size of the file in bytes.

    Raises:
        FormatError: A file cannot be read or written.
        NonFiniteError: A factor holds NaN or Inf.
        MismatchError: A factor overflows in the dtype.
        MissingDependencyError: The package ``gguf`` is missing.
    """
    scale = scale_of(pairing.pairs)
    codes = [dtype_of(pair, scale, dtype) for pair in pairing.pairs]
    header = _header(pairing, scale, codes, name)
    with AtomicFile(path) as file, TensorReader() as reader:
        factors = DeltaReader(reader)
        file.write(header, 0)
        place = len(header)
        for pair, code in zip(pairing.pairs, codes, strict=True):
            for values in pair.factors(factors, scaled=scale.folded):
                data = narrow(values, code, pair.modules[0].module.name).tobytes()
                data += bytes(-len(data) % _PAD)
                file.write(data, place)
                place += len(data)
    return place


class _Stream:
    """Collects what the package ``gguf`` writes ahead of the tensors."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes) -> int:
        self.data += data
        return len(data)

    def flush(self) -> None:
        """Nothing waits."""


def _header(pairing: Pairing, scale: Scale, codes: Sequence[str], name: str) -> bytes:
    gguf = require_gguf("GGUF output")
    writer = gguf.GGUFWriter(None, pairing.arch)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    # A directory may be called what is no text.
    writer.add_name("".join(one if one.isprintable() else "?" for one in name))
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, scale.alpha)
    for pair, code in zip(pairing.pairs, codes, strict=True):
        kind = gguf.GGMLQuantizationType[code]
        for end, shape in zip(("lora_a", "lora_b"), pair.shapes, strict=True):
            nbytes = math.prod(shape) * DTYPES[code].bits // 8
            writer.add_tensor_info(f"{pair.name}.{end}", shape, np.dtype("V"), nbytes, kind)
    stream = _Stream()
    writer.fout, writer.state = [stream], gguf.gguf_writer.WriterState.EMPTY
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    return bytes(stream.data) + bytes(-len(stream.data) % _PAD)

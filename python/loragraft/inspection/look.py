"""What lies at a path, looked at as what it is."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from loragraft.adapter.peft import read_adapter
from loragraft.adapter.peft_config import CONFIG_FILE, GGUF_FILE, LAYOUT_KEY, TENSORS_FILE
from loragraft.checkpoint import open_checkpoint
from loragraft.errors import FormatError, UsageError
from loragraft.ggml.header import is_gguf, read_gguf_header
from loragraft.input_file import read_bytes
from loragraft.inspection.adapter import inspect_adapter, inspect_unread
from loragraft.inspection.checkpoint import inspect_checkpoint
from loragraft.inspection.outlook import ENGINES, Files, outlook_of_gguf, outlook_of_peft
from loragraft.json_text import parse_object
from loragraft.safetensors_header import read_header
from loragraft.wording import listed, shown

if TYPE_CHECKING:
    from loragraft.report.inspection import Inspection

_ADAPTER_FILES: Final = (CONFIG_FILE, TENSORS_FILE, "adapter_model.bin")
_MOST_CONFIG: Final = 64 << 20


def inspect(path: str | os.PathLike[str], *, engine: str | None = None) -> Inspection:
    """Look into a checkpoint or an adapter, in safetensors or GGUF files.

    Of a checkpoint only headers are read. Of an adapter the factors are, one module at a time,
    for the norms: ‖scaling·B·A‖² = scaling²·⟨BᵀB, AAᵀ⟩ in float64, which costs (out + in)·r²
    and never forms the product. Its absolute error is about 1e-8·|scaling|·‖B‖·‖A‖, so a norm far
    below that of its factors is not resolved.

    Args:
        path: A directory, a .safetensors or .gguf file, or a Hub id. A directory with the files of
            a PEFT adapter is one, whatever else it holds.
        engine: Also say whether this program would load the adapter, and what it would leave out:
            ``peft``, ``vllm``, ``sglang`` or ``llama.cpp``.

    Raises:
        FormatError: It cannot be read.
        UsageError: An unknown engine, or one for something that is no adapter.
    """
    if engine is not None and engine not in ENGINES:
        raise UsageError(f"--for {engine}: expected {listed(list(ENGINES))}")
    place = Path(path)
    if place.name in _ADAPTER_FILES:
        place = place.parent
    text = os.fspath(path)
    if any((place / name).exists() for name in _ADAPTER_FILES):
        return _inspect_peft(text, place, engine)
    if (place / GGUF_FILE).exists():
        place /= GGUF_FILE
    if place.suffix == ".gguf" or is_gguf(place):
        return _inspect_gguf(text, place, engine)
    found = inspect_checkpoint(open_checkpoint(path))
    return _no_adapter(text, found, engine)


def _no_adapter(text: str, found: Inspection, engine: str | None) -> Inspection:
    if engine is not None:
        raise UsageError(f"--for {engine}: {shown(text)} is no adapter")
    return found


def _inspect_peft(text: str, place: Path, engine: str | None) -> Inspection:
    if engine is None:
        return inspect_adapter(text, read_adapter(place))
    config_file = place / CONFIG_FILE
    config = parse_object(read_bytes(config_file, _MOST_CONFIG), shown(config_file))
    header = read_header(place / TENSORS_FILE)
    files = Files(config, tuple(header.tensors), header.metadata.get(LAYOUT_KEY, ""))
    try:
        found = inspect_adapter(text, read_adapter(place))
    except FormatError as error:
        # What loragraft does not read, others may.
        found = inspect_unread(text, place / TENSORS_FILE, header, str(error))
    return replace(found, outlook=outlook_of_peft(files, engine))


def _inspect_gguf(text: str, place: Path, engine: str | None) -> Inspection:
    # NumPy, for GGUF alone.
    from loragraft.adapter.gguf.reading import read_gguf_adapter  # noqa: PLC0415
    from loragraft.inspection.gguf import inspect_gguf_adapter, inspect_gguf_model  # noqa: PLC0415

    header, _ = read_gguf_header(place)
    if header.text("general.type") == "adapter":
        adapter = read_gguf_adapter(place)
        found = inspect_gguf_adapter(text, adapter)
        return replace(found, outlook=outlook_of_gguf(adapter, engine)) if engine else found
    return _no_adapter(text, inspect_gguf_model(text, place, header), engine)

"""Checkpoints: the tensors of a model, wherever its safetensors files lie."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from loragraft.errors import FormatError
from loragraft.input_file import read_bytes
from loragraft.json_text import parse_object
from loragraft.natural_order import natural_key
from loragraft.safetensors_header import read_identified_header
from loragraft.shard_index import INDEX_NAME, ShardIndex, read_index
from loragraft.tensor_entry import TensorEntry
from loragraft.wording import quoted, reason, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from loragraft.ggml.model import GgmlStorage

__all__ = ["Checkpoint", "TensorEntry", "local_path", "open_checkpoint"]

_SUFFIX: Final = ".safetensors"
_SINGLE_NAME: Final = "model.safetensors"
_ADAPTER_NAME: Final = "adapter_model.safetensors"
#: What `merge --patch` applies to a base; holds tensors, but is no checkpoint.
_RESIDUAL_NAME: Final = "residual.safetensors"
_GGUF: Final = ".gguf"
_PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt")
_TOKENIZER_NAMES: Final = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
)
_MAX_SMALL_FILE: Final = 200_000_000
_NUMBERED: Final = re.compile(r"(.*)-([0-9]{1,9})-of-([0-9]{1,9})\.safetensors")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model's tensors and its configuration. Nothing is loaded.

    Attributes:
        reference: What the user called it: a path or a Hub id.
        directory: Where its files lie.
        tensors: Every tensor by name, in natural order (``layers.2`` before ``layers.10``).
        shards: The files that hold them, in natural order.
        index: The shard index, if there is one.
        config: The content of config.json, if there is one.
        ggml: How the tensors of GGUF files lie; None for safetensors.
    """

    reference: str
    directory: Path
    tensors: Mapping[str, TensorEntry]
    shards: tuple[Path, ...]
    index: Path | None
    config: Mapping[str, Any] | None
    ggml: GgmlStorage | None = None

    @property
    def nbytes(self) -> int:
        """Size of all tensors in bytes."""
        return sum(entry.nbytes for entry in self.tensors.values())

    def tokenizer_files(self) -> dict[str, str]:
        """Return the SHA-256 of every tokenizer file that exists, by file name.

        Raises:
            FormatError: One of them cannot be read.
        """
        return {
            name: hashlib.sha256(read_bytes(self.directory / name, _MAX_SMALL_FILE)).hexdigest()
            for name in _TOKENIZER_NAMES
            if os.path.lexists(self.directory / name)
        }


def open_checkpoint(
    reference: str | os.PathLike[str], *, gguf: bool = False, skeleton: bool = False
) -> Checkpoint:
    """Open a checkpoint: read and validate the headers of its files.

    Args:
        reference: A directory with ``model.safetensors.index.json``, ``model.safetensors`` or
            other ``.safetensors`` files, one such file, or a Hub id ``owner/name[@revision]``
            when no such path exists. An ``adapter_model.safetensors`` in a directory is left out.
        gguf: A GGUF file will do as well.
        skeleton: Only names and shapes are wanted, so that a GGUF may be quantised as it likes.

    Raises:
        FormatError: There is no such checkpoint, or one of its files is malformed.
        MismatchError: A GGUF of a family that is not proven.
    """
    text = os.fspath(reference)
    path = local_path(text)
    if path.name.endswith(_GGUF):
        return _open_gguf(text, path, wanted=gguf, skeleton=skeleton)
    if path.is_dir():
        return _open_directory(text, path)
    if path.name.endswith(_PICKLES):
        raise _pickle_error(path)
    if path.name == INDEX_NAME:
        return _open_directory(text, path.parent)
    return _assemble(text, path.parent, (path,), None)


def _open_gguf(reference: str, path: Path, *, wanted: bool, skeleton: bool) -> Checkpoint:
    if not wanted:
        raise FormatError(
            f"{shown(path)}: a GGUF file, which this command does not read; give the model's"
            " safetensors files"
        )
    from loragraft.ggml.model import read_model  # noqa: PLC0415 -- NumPy, for GGUF alone

    model = read_model(path, skeleton=skeleton)
    names = sorted(model.tensors, key=natural_key)
    tensors = MappingProxyType({name: model.tensors[name] for name in names})
    return Checkpoint(
        reference, path.parent, tensors, model.shards, None, model.config, model.storage
    )


def local_path(reference: str, *, adapter: bool = False) -> Path:
    """Return where a reference lies, downloading it when it is no path here.

    Args:
        reference: A path or a Hub id ``owner/name[@revision]``.
        adapter: Whether it is of an adapter rather than of a model.

    Raises:
        FormatError: There is no such path, and it cannot be downloaded.
    """
    try:
        os.lstat(reference)
    except PermissionError as error:
        raise FormatError(f"{shown(reference)}: cannot be opened: {reason(error)}") from error
    except (OSError, ValueError):
        from loragraft import hub  # noqa: PLC0415 -- only needed for what is not here

        return hub.download_adapter(reference) if adapter else hub.download(reference)
    return Path(reference)


def _open_directory(reference: str, directory: Path) -> Checkpoint:
    names = _file_names(directory)
    if INDEX_NAME in names:
        index = read_index(directory / INDEX_NAME)
        if _SINGLE_NAME in names and _SINGLE_NAME not in index.shards:
            raise FormatError(
                f"{shown(directory)}: has both {_SINGLE_NAME} and {INDEX_NAME}, which does not"
                " name it: remove one, or give the .safetensors file itself"
            )
        missing = next((shard for shard in index.shards if shard not in names), None)
        if missing is not None:
            raise FormatError(
                f"{shown(index.path)}: names the shard {quoted(missing)}, which is not in"
                f" {shown(directory)}: fetch the checkpoint again"
            )
        shards = tuple(directory / shard for shard in index.shards)
        return _assemble(reference, directory, shards, index)
    if _SINGLE_NAME in names:
        return _assemble(reference, directory, (directory / _SINGLE_NAME,), None)
    return _assemble(reference, directory, _loose_shards(directory, names), None)


def _file_names(directory: Path) -> set[str]:
    try:
        return {path.name for path in directory.iterdir()}
    except OSError as error:
        raise FormatError(f"{shown(directory)}: cannot be listed: {reason(error)}") from error


def _loose_shards(directory: Path, names: set[str]) -> tuple[Path, ...]:
    """Return the .safetensors files of a directory without index or model.safetensors."""
    adapter = {_ADAPTER_NAME, _RESIDUAL_NAME} if _ADAPTER_NAME in names else set()
    found = sorted(
        (name for name in names if name.endswith(_SUFFIX) and name not in adapter),
        key=natural_key,
    )
    if not found:
        raise _nothing_found(directory, names)
    numbered = [match for match in map(_NUMBERED.fullmatch, found) if match]
    for prefix, total in {(match[1], match[3]) for match in numbered}:
        present = {int(match[2]) for match in numbered if (match[1], match[3]) == (prefix, total)}
        if len(present) != int(total) or min(present) != 1 or max(present) != int(total):
            raise FormatError(
                f"{shown(directory)}: has {len(present)} of the {int(total)} shards"
                f" {quoted(f'{prefix}-...-of-{total}{_SUFFIX}')}: fetch the checkpoint again"
            )
    return tuple(directory / name for name in found)


def _nothing_found(directory: Path, names: Iterable[str]) -> FormatError:
    if _ADAPTER_NAME in names:
        return FormatError(
            f"{shown(directory)}: holds an adapter ({_ADAPTER_NAME}) but no model: expected a"
            " checkpoint here"
        )
    if any(name.endswith(_PICKLES) for name in names):
        return _pickle_error(directory)
    return FormatError(
        f"{shown(directory)}: holds no .safetensors file: expected {_SINGLE_NAME} or {INDEX_NAME}"
    )


def _pickle_error(path: Path) -> FormatError:
    return FormatError(
        f"{shown(path)}: the weights are pickled (.bin, .pt), which can run code and is never read:"
        " convert them with transformers' save_pretrained(..., safe_serialization=True)"
    )


def _assemble(
    reference: str, directory: Path, shards: tuple[Path, ...], index: ShardIndex | None
) -> Checkpoint:
    entries: dict[str, TensorEntry] = {}
    for shard in shards:
        header, identity = read_identified_header(shard)
        for name, extent in header.tensors.items():
            if name in entries:
                raise FormatError(
                    f"{shown(shard)}: tensor {quoted(name)} is also in"
                    f" {shown(entries[name].path)}: expected every tensor once"
                )
            size = extent.end - extent.begin
            entries[name] = TensorEntry(
                name, extent.dtype, extent.shape, shard, extent.begin, size, identity
            )
    if index is not None:
        index.check({name: entry.path.name for name, entry in entries.items()})
    tensors = MappingProxyType({name: entries[name] for name in sorted(entries, key=natural_key)})
    return Checkpoint(
        reference=reference,
        directory=directory,
        tensors=tensors,
        shards=shards,
        index=None if index is None else index.path,
        config=_config(directory / "config.json"),
    )


def _config(path: Path) -> Mapping[str, Any] | None:
    if not os.path.lexists(path):
        return None
    # Not strict: some families store Infinity, and the libraries that load the model accept it.
    data = read_bytes(path, _MAX_SMALL_FILE)
    return MappingProxyType(parse_object(data, shown(path), strict=False))

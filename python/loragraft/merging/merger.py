"""`merge`: add an adapter into its base model, slab by slab, file by file."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from loragraft.adapted.changes import changes_of
from loragraft.adapter.peft import read_adapter
from loragraft.checkpoint import open_checkpoint
from loragraft.destination import Destination, check_destination, check_space
from loragraft.errors import UsageError
from loragraft.merging.companions import (
    CONFIG,
    changed_dtype,
    companion_files,
    config_bytes,
    index_bytes,
    read_companion,
)
from loragraft.merging.contents import merged_tensors
from loragraft.number_formats import WEIGHT_DTYPES, nbytes_of
from loragraft.resource_limits import check_open_files
from loragraft.safetensors_header import read_header
from loragraft.safetensors_writer import SafetensorsWriter, write_bytes_atomic
from loragraft.tensor_reader import TensorReader

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

    from loragraft.adapted.changes import Changes
    from loragraft.adapter.peft import PeftAdapter
    from loragraft.checkpoint import Checkpoint
    from loragraft.merging.contents import Contents
    from loragraft.safetensors_writer import Layout

    #: Told the tensor just written, bytes done and bytes in all.
    Progress = Callable[[str, int, int], None]

_CODES: Final = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}


@dataclass(frozen=True, slots=True)
class MergeResult:
    """What `merge` wrote.

    Attributes:
        output: The directory.
        modules: Number of modules that the adapter changed.
        tensors: Number of tensors written.
        bytes_written: Size of all tensor files.
        seconds: Wall time.
        replaced: Number of tensors that the adapter replaced, or rows of them.
        identical: Number of tensors that were compared with the tuned checkpoint's by SHA-256, and
            are the same: all of them with ``patch``, else 0.
    """

    output: Path
    modules: int
    tensors: int
    bytes_written: int
    seconds: float
    replaced: int = 0
    identical: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain data."""
        return {
            "command": "merge",
            "output": str(self.output),
            "modules": self.modules,
            "replaced": self.replaced,
            "tensors": self.tensors,
            "identical": self.identical,
            "bytes_written": self.bytes_written,
            "seconds": self.seconds,
        }


class _Shard(NamedTuple):
    """One file to write: its counterpart of the base, its tensors and its metadata."""

    like: Path
    layout: list[Layout]
    metadata: Mapping[str, str]


@dataclass(slots=True)
class _Job:
    """One merge on its way through the tensors."""

    base: Checkpoint
    contents: Contents
    shards: list[_Shard]
    layouts: list[Layout]
    total: int
    dtype: str | None
    patch: bool
    progress: Progress | None
    done: int = 0


def merge(
    base: str | os.PathLike[str],
    adapter: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    patch: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> MergeResult:
    """Write the checkpoint that BASE with ADAPTER merged into it is.

    Order of operations for every adapted weight: delta = (B · A) · float32(scaling) with B and A
    widened to float32, then W' = round(W + delta) with W widened to float32 and the sum formed
    in float32. The rounding to the stored dtype (nearest, ties to even) is the only one beyond
    float32, and the result is what `verify` means by bit-exact.

    Modules, rows of tokens and biases that the adapter carries take the place of the base's, in
    the dtype that these are stored in. All other tensors are copied byte for byte. Files, metadata
    and the order of the tensors in them are those of BASE; config.json, written last, marks a
    finished checkpoint. On an error or interrupt every file written so far is removed. Memory: a
    few slabs of 4 MiB and the factors of two modules; of experts whose rows do not lie together in
    the base's tensor, one matrix too.

    With ``patch`` the tensors are those of the checkpoint that the adapter was extracted from, bit
    for bit: names, dtypes and shapes are its own too. Tensors that only it has go to the last file.
    All other files are BASE's still, but for the dtype that config.json states.

    Args:
        base: The base checkpoint: directory, .safetensors file or Hub id.
        adapter: Directory of a PEFT LoRA adapter.
        output: Directory to write to; made if need be.
        dtype: ``bf16``, ``fp16`` or ``fp32`` to store all weights so; None keeps each as it is.
        patch: Apply the residual that lies beside the adapter, and check every tensor by SHA-256.
        force: Replace a checkpoint in ``output``: its safetensors files, index and config.json
            are removed.
        progress: Called after every tensor with its name, the bytes written and those in all.

    Raises:
        FormatError: A file cannot be read or written, or the disk has too little space; with
            ``patch``, there is no residual, or it is malformed.
        MismatchError: The adapter does not fit the base, changes a weight that is stored as codes,
            or has tensors that neither are factors nor have a place in the base; with ``patch``,
            the base or the adapter is not the one that the residual was made for.
        NonFiniteError: A weight to write is NaN or Inf.
        UsageError: An unknown ``dtype``, one beside ``patch``, or ``output`` is in use.
    """
    started = time.perf_counter()
    code = _code(dtype, patch=patch)
    before, lora, target = open_checkpoint(base), read_adapter(adapter), Path(output)
    check_open_files(len(before.shards))
    check_destination(target, (before.directory, lora.directory), force=force)
    with TensorReader() as reader:
        contents, changes = _contents(before, lora, reader, code, patch=patch)
        shards = _shards(before, contents)
        layouts = [layout for shard in shards for layout in shard.layout]
        total = sum(map(nbytes_of, layouts))
        job = _Job(before, contents, shards, layouts, total, code, patch, progress)
        companions = companion_files(before)
        overhead = sum(read_header(shard).data_start for shard in before.shards)
        overhead += sum(path.stat().st_size for path in companions)
        check_space(target, total + overhead)
        with Destination(target, force) as destination:
            # One file is the old one or the new one at any time; of several, some of either would
            # pass for a checkpoint.
            names = {shard.name for shard in before.shards}
            destination.clear(keep=names if len(names) == 1 else ())
            written = sum(_write_shard(job, destination, shard) for shard in job.shards)
            _write_companions(job, destination, companions)
    count = len(layouts)
    return MergeResult(
        output=target,
        modules=changes.modules,
        tensors=count,
        bytes_written=written,
        seconds=time.perf_counter() - started,
        replaced=len(changes.replaced),
        identical=count if patch else 0,
    )


def _code(dtype: str | None, *, patch: bool) -> str | None:
    if dtype is not None and patch:
        raise UsageError(
            f"dtype {dtype} cannot be had with the patch, which gives the tuned checkpoint's own;"
            " leave out --dtype or --patch"
        )
    if dtype is None or dtype in WEIGHT_DTYPES:
        return dtype
    if dtype not in _CODES:
        raise UsageError(f"dtype {dtype!r} cannot be written: expected one of {', '.join(_CODES)}")
    return _CODES[dtype]


def _contents(
    base: Checkpoint, adapter: PeftAdapter, reader: TensorReader, code: str | None, *, patch: bool
) -> tuple[Contents, Changes]:
    if not patch:
        changes = changes_of(adapter, base, reader)
        return merged_tensors(base, changes, reader, code), changes
    from loragraft.lossless.rebuilt import RebuiltTensors  # noqa: PLC0415 -- only for patches
    from loragraft.lossless.residual import read_residual  # noqa: PLC0415

    residual = read_residual(adapter.directory)
    changes = changes_of(adapter, base, reader, lenient=True)
    return RebuiltTensors(base, changes, residual, reader), changes


def _shards(base: Checkpoint, contents: Contents) -> list[_Shard]:
    found = []
    for path in base.shards:
        header = read_header(path)
        layout = contents.layout(header.tensors, last=path == base.shards[-1])
        found.append(_Shard(path, layout, header.metadata))
    return found


def _write_shard(job: _Job, destination: Destination, shard: _Shard) -> int:
    """Write the counterpart of one of the base's files and return its size."""
    path = destination.directory / shard.like.name
    with SafetensorsWriter(path, shard.layout, shard.metadata) as writer:
        for layout in shard.layout:
            name = layout[0]
            for offset, data in job.contents.parts(name):
                writer.write_part(name, data, offset)
            job.done += nbytes_of(layout)
            if job.progress is not None:
                job.progress(name, job.done, job.total)
        # Only now, so that an error leaves alone what lay there before.
        destination.file(shard.like.name)
        return writer.nbytes


def _write_companions(job: _Job, destination: Destination, companions: tuple[Path, ...]) -> None:
    """Write the index, the small files, and at last config.json."""
    base, dtype, index = job.base, job.dtype, None
    if job.patch:
        dtype = changed_dtype(base, job.layouts)
        index = {layout[0]: shard.like.name for shard in job.shards for layout in shard.layout}
    if base.index is not None:
        total = job.total if job.dtype or job.patch else None
        write_bytes_atomic(destination.file(base.index.name), index_bytes(base.index, total, index))
    for path in companions:
        write_bytes_atomic(destination.file(path.name), read_companion(path))
    config = config_bytes(base, dtype)
    if config is not None:
        write_bytes_atomic(destination.file(CONFIG), config)

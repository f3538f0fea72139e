"""`merge`: add an adapter into its base model, slab by slab, file by file."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from loragraft.adapter.delta import load_delta, slabs
from loragraft.adapter.peft import read_adapter
from loragraft.adapter.placement import place_modules
from loragraft.architecture.modules import take_inventory
from loragraft.checkpoint import open_checkpoint
from loragraft.destination import Destination, check_destination, check_space
from loragraft.dtypes import from_float32
from loragraft.errors import MismatchError, NonFiniteError, UsageError
from loragraft.merging.companions import (
    CONFIG,
    companion_files,
    config_bytes,
    index_bytes,
    read_companion,
)
from loragraft.number_formats import DTYPES, WEIGHT_DTYPES
from loragraft.safetensors_header import read_header
from loragraft.safetensors_writer import SafetensorsWriter, write_bytes_atomic
from loragraft.tensor_reader import TensorReader
from loragraft.wording import shown

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from loragraft.adapter.peft import PeftAdapter
    from loragraft.adapter.placement import Placement
    from loragraft.checkpoint import Checkpoint, TensorEntry

    #: Told the tensor just written, bytes done and bytes in all.
    Progress = Callable[[str, int, int], None]

_CODES: Final = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}
_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class MergeResult:
    """What `merge` wrote.

    Attributes:
        output: The directory.
        modules: Number of modules that the adapter changed.
        tensors: Number of tensors written.
        bytes_written: Size of all tensor files.
        seconds: Wall time.
    """

    output: Path
    modules: int
    tensors: int
    bytes_written: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain data."""
        return {
            "command": "merge",
            "output": str(self.output),
            "modules": self.modules,
            "tensors": self.tensors,
            "bytes_written": self.bytes_written,
            "seconds": self.seconds,
        }


@dataclass(slots=True)
class _Job:
    """One merge on its way through the tensors."""

    base: Checkpoint
    placements: Mapping[str, Placement]
    reader: TensorReader
    dtype: str | None
    progress: Progress | None
    total: int
    done: int = 0

    def code(self, entry: TensorEntry) -> str:
        """Return the dtype that a tensor is written in."""
        return self.dtype if self.dtype and entry.dtype in WEIGHT_DTYPES else entry.dtype


def merge(
    base: str | os.PathLike[str],
    adapter: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> MergeResult:
    """Write the checkpoint that BASE with ADAPTER merged into it is.

    Order of operations for every adapted weight: delta = (B · A) · float32(scaling) with B and A
    widened to float32, then W' = round(W + delta) with W widened to float32 and the sum formed
    in float32. The rounding to the stored dtype (nearest, ties to even) is the only one beyond
    float32, and the result is what `verify` means by bit-exact.

    All other tensors are copied byte for byte. Files, metadata and the order of the tensors in
    them are those of BASE; config.json, written last, marks a finished checkpoint. On an error
    or interrupt every file written so far is removed. Memory: a few slabs of 4 MiB and one
    module's factors.

    Args:
        base: The base checkpoint: directory, .safetensors file or Hub id.
        adapter: Directory of a PEFT LoRA adapter.
        output: Directory to write to; made if need be.
        dtype: ``bf16``, ``fp16`` or ``fp32`` to store all weights so; None keeps each as it is.
        force: Replace a checkpoint in ``output``: its safetensors files, index and config.json
            are removed.
        progress: Called after every tensor with its name, the bytes written and those in all.

    Raises:
        FormatError: A file cannot be read or written, or the disk has too little space.
        MismatchError: The adapter does not fit the base, or has tensors that are no LoRA factors.
        NonFiniteError: A weight to write is NaN or Inf.
        UsageError: An unknown ``dtype``, or ``output`` is in use.
    """
    started = time.perf_counter()
    code = _code(dtype)
    before, lora, target = open_checkpoint(base), read_adapter(adapter), Path(output)
    _check_factors_only(lora)
    check_destination(target, (before.directory, lora.directory), force=force)
    placements = {
        item.linear.tensor: item for item in place_modules(lora, before, take_inventory(before))
    }
    with TensorReader() as reader:
        job = _Job(before, placements, reader, code, progress, 0)
        job.total = sum(_nbytes(job, entry) for entry in before.tensors.values())
        companions = companion_files(before)
        overhead = sum(read_header(shard).data_start for shard in before.shards)
        overhead += sum(path.stat().st_size for path in companions)
        check_space(target, job.total + overhead)
        with Destination(target, force) as destination:
            destination.clear(keep={shard.name for shard in before.shards})
            written = sum(_write_shard(job, destination, shard) for shard in before.shards)
            _write_companions(job, destination, companions)
    seconds = time.perf_counter() - started
    return MergeResult(target, len(placements), len(before.tensors), written, seconds)


def _code(dtype: str | None) -> str | None:
    if dtype is None or dtype in WEIGHT_DTYPES:
        return dtype
    if dtype not in _CODES:
        raise UsageError(f"dtype {dtype!r} cannot be written: expected one of {', '.join(_CODES)}")
    return _CODES[dtype]


def _check_factors_only(adapter: PeftAdapter) -> None:
    """Refuse what would be lost in a merge of LoRA factors alone."""
    names = sorted(adapter.other_tensors)
    if names:
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        raise MismatchError(
            f"{shown(adapter.directory)}: tensors that are no LoRA factors cannot be merged:"
            f" {', '.join(names[:_SHOWN])}{more}; make the adapter without modules_to_save, biases"
            " and embeddings, or merge it with PEFT"
        )


def _nbytes(job: _Job, entry: TensorEntry) -> int:
    code = job.code(entry)
    return entry.nbytes if code == entry.dtype else entry.parameters * DTYPES[code].bits // 8


def _write_shard(job: _Job, destination: Destination, shard: Path) -> int:
    """Write the counterpart of one of the base's files and return its size."""
    header = read_header(shard)
    entries = [job.base.tensors[name] for name in header.tensors]
    layout = [(entry.name, job.code(entry), entry.shape) for entry in entries]
    with SafetensorsWriter(destination.directory / shard.name, layout, header.metadata) as writer:
        for entry in entries:
            _write_tensor(job, writer, entry)
            job.done += _nbytes(job, entry)
            if job.progress is not None:
                job.progress(entry.name, job.done, job.total)
        # Only now, so that an error leaves alone what lay there before.
        destination.file(shard.name)
        return writer.nbytes


def _write_tensor(job: _Job, writer: SafetensorsWriter, entry: TensorEntry) -> None:
    placement = job.placements.get(entry.name)
    if placement is not None:
        _merge_tensor(job, writer, entry, placement)
    elif job.code(entry) == entry.dtype:
        flat = replace(entry, dtype="U8", shape=(entry.nbytes,))
        for start, stop in _ranges(entry.nbytes, 1):
            writer.write_part(entry.name, job.reader.raw_rows(flat, start, stop), start)
    else:
        _convert_tensor(job, writer, entry)


def _ranges(size: int, width: int) -> list[tuple[int, int]]:
    """Ranges of elements, ``width`` bytes each, of about a slab."""
    scale = max(1, 4 // width)
    return [(scale * start, min(size, scale * stop)) for start, stop in slabs(-(-size // scale), 1)]


def _convert_tensor(job: _Job, writer: SafetensorsWriter, entry: TensorEntry) -> None:
    """Write a tensor that no module changes in another dtype."""
    code, flat = job.code(entry), replace(entry, shape=(entry.parameters,))
    for start, stop in slabs(entry.parameters, 1):
        values = job.reader.rows(flat, start, stop)
        stored = from_float32(values, code)
        overflowed = ~_finite(stored, code) & np.isfinite(values)
        if overflowed.any():
            worst = float(np.abs(values[overflowed]).max())
            raise NonFiniteError(
                f"{shown(entry.path)}: tensor {entry.name} holds {worst:.4g}, which overflows"
                f" {code}; write another dtype"
            )
        writer.write_part(entry.name, stored, start * DTYPES[code].bits // 8)


def _merge_tensor(
    job: _Job, writer: SafetensorsWriter, entry: TensorEntry, placement: Placement
) -> None:
    """Write an adapted weight."""
    code = job.code(entry)
    delta = load_delta(job.reader, placement)
    rows, columns = delta.shape
    for start, stop in slabs(rows, columns):
        weight = job.reader.rows(entry, start, stop)
        with np.errstate(over="ignore", invalid="ignore"):
            stored = from_float32(weight + delta.rows(start, stop), code)
        if not _finite(stored, code).all():
            raise _not_finite(entry, code, weight)
        writer.write_part(entry.name, stored, start * columns * DTYPES[code].bits // 8)


def _not_finite(entry: TensorEntry, code: str, weight: NDArray[np.float32]) -> NonFiniteError:
    where = f"{shown(entry.path)}: tensor {entry.name}"
    if not np.isfinite(weight).all():
        return NonFiniteError(f"{where} holds NaN or Inf: expected finite weights; repair the base")
    return NonFiniteError(
        f"{where}: with the adapter added a weight overflows {code}; write another dtype, or check"
        " that the adapter belongs to this model"
    )


def _finite(stored: NDArray[np.generic], code: str) -> NDArray[np.bool_]:
    finite: NDArray[np.bool_]
    if code == "BF16":
        finite = (stored.view(np.uint16) & 0x7F80) != 0x7F80
    else:
        finite = np.isfinite(stored.view(DTYPES[code].storage))
    return finite


def _write_companions(job: _Job, destination: Destination, companions: tuple[Path, ...]) -> None:
    """Write the index, the small files, and at last config.json."""
    base = job.base
    if base.index is not None:
        data = index_bytes(base.index, job.total if job.dtype else None)
        write_bytes_atomic(destination.file(base.index.name), data)
    for path in companions:
        write_bytes_atomic(destination.file(path.name), read_companion(path))
    config = config_bytes(base, job.dtype)
    if config is not None:
        write_bytes_atomic(destination.file(CONFIG), config)

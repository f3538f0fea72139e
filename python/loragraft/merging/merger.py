"""`merge`: add an adapter into its base model, slab by slab, file by file."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from loragraft.adapter.peft import read_adapter
from loragraft.adapter.placement import place_adapter
from loragraft.checkpoint import open_checkpoint
from loragraft.destination import Destination, check_destination, check_space
from loragraft.errors import UsageError
from loragraft.merging.companions import (
    CONFIG,
    companion_files,
    config_bytes,
    index_bytes,
    read_companion,
)
from loragraft.merging.patches import patches_of
from loragraft.merging.tensors import TensorMerger
from loragraft.merging.whole import replacements
from loragraft.number_formats import WEIGHT_DTYPES
from loragraft.safetensors_header import read_header
from loragraft.safetensors_writer import SafetensorsWriter, write_bytes_atomic
from loragraft.tensor_reader import TensorReader
from loragraft.weights.pieces import pieces
from loragraft.weights.source import Plain

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from loragraft.architecture.modules import Inventory
    from loragraft.checkpoint import Checkpoint

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
    """

    output: Path
    modules: int
    tensors: int
    bytes_written: int
    seconds: float
    replaced: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain data."""
        return {
            "command": "merge",
            "output": str(self.output),
            "modules": self.modules,
            "replaced": self.replaced,
            "tensors": self.tensors,
            "bytes_written": self.bytes_written,
            "seconds": self.seconds,
        }


@dataclass(slots=True)
class _Job:
    """One merge on its way through the tensors."""

    base: Checkpoint
    tensors: TensorMerger
    dtype: str | None
    progress: Progress | None
    total: int = 0
    done: int = 0


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

    Modules, rows of tokens and biases that the adapter carries take the place of the base's, in
    the dtype that these are stored in. All other tensors are copied byte for byte. Files, metadata
    and the order of the tensors in them are those of BASE; config.json, written last, marks a
    finished checkpoint. On an error or interrupt every file written so far is removed. Memory: a
    few slabs of 4 MiB and the factors of two modules; of experts whose rows do not lie together in
    the base's tensor, one matrix too.

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
        MismatchError: The adapter does not fit the base, changes a weight that is stored as codes,
            or has tensors that neither are factors nor have a place in the base.
        NonFiniteError: A weight to write is NaN or Inf.
        UsageError: An unknown ``dtype``, or ``output`` is in use.
    """
    started = time.perf_counter()
    code = _code(dtype)
    before, lora, target = open_checkpoint(base), read_adapter(adapter), Path(output)
    check_destination(target, (before.directory, lora.directory), force=force)
    placed = place_adapter(lora, before)
    patches = patches_of(placed.placements)
    with TensorReader() as reader:
        replaced = replacements(lora, before, patches.keys(), reader)
        kept = _of_codes(placed.inventory)
        tensors = TensorMerger(reader, patches, code, kept, replaced)
        job = _Job(before, tensors, code, progress)
        job.total = sum(tensors.nbytes(entry) for entry in before.tensors.values())
        companions = companion_files(before)
        overhead = sum(read_header(shard).data_start for shard in before.shards)
        overhead += sum(path.stat().st_size for path in companions)
        check_space(target, job.total + overhead)
        with Destination(target, force) as destination:
            destination.clear(keep={shard.name for shard in before.shards})
            written = sum(_write_shard(job, destination, shard) for shard in before.shards)
            _write_companions(job, destination, companions)
    seconds = time.perf_counter() - started
    return MergeResult(
        target, len(placed.placements), len(before.tensors), written, seconds, len(replaced)
    )


def _code(dtype: str | None) -> str | None:
    if dtype is None or dtype in WEIGHT_DTYPES:
        return dtype
    if dtype not in _CODES:
        raise UsageError(f"dtype {dtype!r} cannot be written: expected one of {', '.join(_CODES)}")
    return _CODES[dtype]


def _of_codes(inventory: Inventory) -> frozenset[str]:
    """Return the tensors of weights that are stored as codes, the scales among them."""
    return frozenset(
        entry.name
        for linear in inventory.linears
        for matrix in linear.matrices
        for piece in pieces(matrix)
        if not isinstance(piece.source, Plain)
        for entry in piece.source.entries
    )


def _write_shard(job: _Job, destination: Destination, shard: Path) -> int:
    """Write the counterpart of one of the base's files and return its size."""
    header = read_header(shard)
    entries = [job.base.tensors[name] for name in header.tensors]
    layout = [(entry.name, job.tensors.code(entry), entry.shape) for entry in entries]
    with SafetensorsWriter(destination.directory / shard.name, layout, header.metadata) as writer:
        for entry in entries:
            job.tensors.write(writer, entry)
            job.done += job.tensors.nbytes(entry)
            if job.progress is not None:
                job.progress(entry.name, job.done, job.total)
        # Only now, so that an error leaves alone what lay there before.
        destination.file(shard.name)
        return writer.nbytes


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

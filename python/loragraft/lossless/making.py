"""Makes the residual of an adapter: what merging it does not give of the tuned checkpoint."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from loragraft.adapted.changes import changes_of
from loragraft.adapted.stored import ranges
from loragraft.adapted.tensors import TensorMerger
from loragraft.errors import NonFiniteError
from loragraft.lossless.difference import Comparison, Difference
from loragraft.lossless.manifest import (
    GAPS_DTYPE,
    MANIFEST_KEY,
    Record,
    Stored,
    manifest_text,
    values_dtype,
)
from loragraft.lossless.nudged import SIGNS, NudgedDeltaReader
from loragraft.lossless.summary import ResidualSummary
from loragraft.safetensors_writer import SafetensorsWriter
from loragraft.spool import Spool
from loragraft.tensor_reader import TensorReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from loragraft.adapter.peft import PeftAdapter
    from loragraft.checkpoint import Checkpoint
    from loragraft.safetensors_writer import Layout
    from loragraft.spool import Extent
    from loragraft.tensor_entry import TensorEntry

    #: Told the tensor just compared, bytes done and bytes in all.
    Progress = Callable[[str, int, int], None]


def write_residual(
    base: Checkpoint,
    tuned: Checkpoint,
    adapter: PeftAdapter,
    path: Path,
    *,
    limit: int | None = None,
    progress: Progress | None = None,
) -> ResidualSummary:
    """Write what turns BASE with ADAPTER merged into TUNED, bit for bit.

    What `merge` would write is compared with TUNED's bytes, in TUNED's dtypes, with the adapter's
    changes at both ends of what the order of floating-point sums can make of them. Where either
    differs, TUNED's bits are recorded; the rest comes out right on every machine. A tensor of which
    this would take more than its own size is kept whole, as is one that BASE lacks, has in
    another shape, or in a dtype that cannot be converted. Memory: as for `merge`, and a slab of the
    tensor in work; what is found waits in a temporary file beside ``path``.

    Args:
        base: The base checkpoint.
        tuned: The checkpoint to restore.
        adapter: The adapter, its tensors in their file.
        path: Where to write; its directory must exist. An existing file is replaced.
        limit: Largest size of the file in bytes; beyond it nothing is written.
        progress: Called after every tensor with its name, the bytes compared and those in all.

    Raises:
        FormatError: A file cannot be read or written.
        MismatchError: The adapter does not fit the base.
    """
    started = time.perf_counter()
    found: list[Difference] = []
    size, done, written = 0, 0, False
    with TensorReader() as reader, Spool.unnamed(path.parent) as spool:
        for difference in _differences(base, tuned, adapter, reader, spool):
            found.append(difference)
            size += difference.nbytes
            done += difference.record.nbytes
            if limit is not None and size > limit:
                break
            if progress is not None:
                progress(difference.record.name, done, tuned.nbytes)
        else:
            size, written = _write(path, found, reader, spool, limit)
    counts = Counter(one.record.stored for one in found)
    return ResidualSummary(
        written=written,
        nbytes=size,
        tuned_bytes=tuned.nbytes,
        tensors={kind.value: counts[kind] for kind in Stored},
        weights=sum(one.weights for one in found),
        whole_bytes=sum(one.nbytes for one in found if one.record.stored is Stored.WHOLE),
        dropped=len(base.tensors.keys() - tuned.tensors.keys()),
        seconds=time.perf_counter() - started,
    )


def _differences(
    base: Checkpoint,
    tuned: Checkpoint,
    adapter: PeftAdapter,
    reader: TensorReader,
    spool: Spool,
) -> Iterator[Difference]:
    changes = changes_of(adapter, base, reader, lenient=True)
    dtypes = {name: entry.dtype for name, entry in tuned.tensors.items()}
    mergers = [
        TensorMerger(
            reader, changes.patches, dtypes, changes.replaced, NudgedDeltaReader(reader, sign)
        )
        for sign in SIGNS
    ]
    for name, entry in tuned.tensors.items():
        # Only sums depend on the machine.
        used = mergers if name in changes.patches else mergers[:1]
        yield _difference(base.tensors.get(name), entry, used, reader, spool)


def _difference(
    before: TensorEntry | None,
    entry: TensorEntry,
    mergers: Sequence[TensorMerger],
    reader: TensorReader,
    spool: Spool,
) -> Difference:
    wanted = Record(entry.name, entry.dtype, entry.shape, "", Stored.NOTHING)
    if before is not None and wanted.comes_from(before):
        streams = [merger.parts(before) for merger in mergers]
        converted = before.dtype != entry.dtype
        try:
            return Comparison(entry, reader, spool).with_merged(streams, converted=converted)
        except NonFiniteError:
            # Merging refuses what TUNED may well hold.
            pass
    return Comparison(entry, reader, spool).whole()


def _write(
    path: Path,
    found: Sequence[Difference],
    reader: TensorReader,
    spool: Spool,
    limit: int | None,
) -> tuple[int, bool]:
    """Write the file unless it is too large; return its size and whether it is there."""
    layout: list[Layout] = []
    for one in found:
        record, keys = one.record, one.record.keys
        if record.stored is Stored.SPARSE:
            layout.append((keys[0], GAPS_DTYPE, (one.codes,)))
            layout.append((keys[1], values_dtype(record.dtype), (one.weights,)))
        elif record.stored is Stored.WHOLE:
            layout.append((keys[0], record.dtype, record.shape))
    manifest = manifest_text(one.record for one in found)
    with SafetensorsWriter(path, layout, {MANIFEST_KEY: manifest}) as writer:
        if limit is not None and writer.nbytes > limit:
            writer.abort()
            return writer.nbytes, False
        for one in found:
            _write_one(writer, one, reader, spool)
        return writer.nbytes, True


def _write_one(
    writer: SafetensorsWriter, one: Difference, reader: TensorReader, spool: Spool
) -> None:
    keys = one.record.keys
    if one.record.stored is Stored.WHOLE:
        for start, stop in ranges(0, one.source.nbytes, 1):
            data = reader.raw_part(one.source, start, stop)
            writer.write_part(keys[0], memoryview(data), start)
        return
    pieces: tuple[tuple[Extent, ...], ...] = (one.gaps, one.values)
    for key, extents in zip(keys, pieces, strict=False):
        offset = 0
        for extent in extents:
            writer.write_part(key, spool.read(extent), offset)
            offset += extent.length

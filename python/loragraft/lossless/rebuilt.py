"""The tuned checkpoint's tensors out of base, adapter and residual."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from loragraft.adapted.stored import ranges
from loragraft.adapted.tensors import Part, TensorMerger
from loragraft.errors import MismatchError
from loragraft.lossless.difference import as_units
from loragraft.lossless.gaps import START, decode
from loragraft.lossless.manifest import Stored, unit_of
from loragraft.lossless.residual import gap_codes
from loragraft.wording import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from loragraft.adapted.changes import Changes
    from loragraft.checkpoint import Checkpoint
    from loragraft.lossless.manifest import Record
    from loragraft.lossless.residual import Residual
    from loragraft.safetensors_writer import Layout
    from loragraft.tensor_reader import TensorReader


class RebuiltTensors:
    """Gives the tensors of the tuned checkpoint, laid out in files like the base's.

    Every tensor is compared with the tuned checkpoint's by SHA-256 as it is given.
    """

    def __init__(
        self, base: Checkpoint, changes: Changes, residual: Residual, reader: TensorReader
    ) -> None:
        """Take what the tensors are made of.

        Args:
            base: The base.
            changes: What the adapter makes of it, as the residual was made for.
            residual: What is different then.
            reader: Reads all three.

        Raises:
            FormatError: The residual is malformed.
            MismatchError: The base is not the one that it was made for.
        """
        residual.check_base(base)
        residual.check_gaps(reader)
        self._base, self._residual, self._reader = base, residual, reader
        dtypes = {record.name: record.dtype for record in residual.records.values()}
        self._merger = TensorMerger(reader, changes.patches, dtypes, changes.replaced)

    def layout(self, names: Iterable[str], *, last: bool) -> list[Layout]:
        """Return name, dtype and shape of the tensors for the counterpart of a file of the base.

        Args:
            names: The tensors that the base's file holds, in its order.
            last: It is the last file, which tensors that only the tuned checkpoint has go to.
        """
        records = self._residual.records
        kept = [name for name in names if name in records]
        if last:
            kept += [name for name in records if name not in self._base.tensors]
        return [(name, records[name].dtype, records[name].shape) for name in kept]

    def parts(self, name: str) -> Iterator[Part]:
        """Yield a tensor from its first byte to its last.

        Raises:
            FormatError: A file cannot be read.
            MismatchError: The tensor is not the tuned checkpoint's.
            NonFiniteError: Merging gives NaN or Inf.
        """
        record = self._residual.records[name]
        digest = hashlib.sha256()
        for part in self._unchecked(record):
            digest.update(as_units(part.data, 1).data)
            yield part
        if digest.hexdigest() != record.sha256:
            raise MismatchError(
                f"tensor {name}: got SHA-256 {digest.hexdigest()}, expected {record.sha256}:"
                f" {shown(self._base.reference)} or the adapter is not the one that"
                f" {shown(self._residual.path)} was made for, or that file is damaged; give the"
                " base and the adapter that belong to it"
            )

    def _unchecked(self, record: Record) -> Iterator[Part]:
        if record.stored is Stored.WHOLE:
            entry = self._residual.entries[record.keys[0]]
            for start, stop in ranges(0, entry.nbytes, 1):
                data = self._reader.raw_part(entry, start, stop)
                yield Part(start, np.frombuffer(data, np.uint8))
            return
        merged = self._merger.parts(self._base.tensors[record.name])
        if record.stored is Stored.NOTHING:
            yield from merged
            return
        recorded = _Recorded(record, self._residual, self._reader)
        for part in merged:
            yield Part(part.offset, recorded.over(part))


class _Recorded:
    """The recorded weights of one tensor, put in place in ascending order."""

    def __init__(self, record: Record, residual: Residual, reader: TensorReader) -> None:
        self._unit = unit_of(record.dtype)
        self._chunks = self._read(record, residual, reader)
        self._positions: NDArray[np.int64] = np.empty(0, np.int64)
        self._values: NDArray[np.unsignedinteger] = np.empty(0, np.uint8)

    def _read(
        self, record: Record, residual: Residual, reader: TensorReader
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.unsignedinteger]]]:
        gaps, values = (residual.entries[key] for key in record.keys)
        last, done = START, 0
        for codes in gap_codes(reader, gaps):
            positions, last = decode(codes, last)
            stop = done + positions.size
            data = reader.raw_part(values, self._unit * done, self._unit * stop)
            yield positions, as_units(np.frombuffer(data, np.uint8), self._unit)
            done = stop

    def over(self, part: Part) -> NDArray[np.unsignedinteger]:
        """Return a part with the recorded weights in their places."""
        units = as_units(part.data, self._unit)
        first = part.offset // self._unit
        while self._positions.size or self._advance():
            count = int(np.searchsorted(self._positions, first + units.size))
            units[self._positions[:count] - first] = self._values[:count]
            self._positions, self._values = self._positions[count:], self._values[count:]
            if self._positions.size:
                break
        return units

    def _advance(self) -> bool:
        """Take the next recorded weights, if there are any."""
        following = next(self._chunks, None)
        if following is None:
            return False
        self._positions, self._values = following
        return True

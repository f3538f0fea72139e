"""What of one tensor merging does not give, found part by part."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from loragraft.adapted.stored import finite, ranges
from loragraft.lossless.gaps import START, encode
from loragraft.lossless.manifest import Record, Stored, unit_of
from loragraft.number_formats import DTYPES, WEIGHT_DTYPES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from loragraft.adapted.tensors import Part
    from loragraft.spool import Extent, Spool
    from loragraft.tensor_entry import TensorEntry
    from loragraft.tensor_reader import TensorReader


class Difference(NamedTuple):
    """What a residual stores of one tensor.

    Attributes:
        record: The tensor.
        source: Where its bytes are.
        codes: Number of gap codes.
        weights: Number of values.
        gaps: Where the codes lie in the spool.
        values: Where the values lie.
    """

    record: Record
    source: TensorEntry
    codes: int = 0
    weights: int = 0
    gaps: tuple[Extent, ...] = ()
    values: tuple[Extent, ...] = ()

    @property
    def nbytes(self) -> int:
        """Size of what is stored."""
        if self.record.stored is Stored.WHOLE:
            return self.record.nbytes
        return 2 * self.codes + unit_of(self.record.dtype) * self.weights


class Comparison:
    """Compares the bytes of one tensor with what merging gives."""

    def __init__(self, entry: TensorEntry, reader: TensorReader, spool: Spool) -> None:
        """Take the tensor as it is to be, what reads it, and where to put what differs."""
        self._entry, self._reader, self._spool = entry, reader, spool
        self._digest, self._done = hashlib.sha256(), 0
        self._gaps: list[Extent] = []
        self._values: list[Extent] = []
        self._last, self._codes, self._weights = START, 0, 0

    def with_merged(self, streams: Sequence[Iterator[Part]], *, converted: bool) -> Difference:
        """Compare with one or more results of merging, and collect where any of them differs.

        Args:
            streams: The tensor in parts, the same in each.
            converted: The base stores the tensor in another dtype.

        Raises:
            FormatError: A file cannot be read, or the disk fails.
            NonFiniteError: Merging fails.
        """
        for parts in zip(*streams, strict=True):
            stored = self._next(parts[0].offset, parts[0].data.nbytes)
            self._collect(stored, parts, converted=converted)
            if self._size >= self._entry.nbytes:
                return self.whole()
        kind = Stored.SPARSE if self._weights else Stored.NOTHING
        counts = (self._codes, self._weights)
        return Difference(
            self._record(kind), self._entry, *counts, tuple(self._gaps), tuple(self._values)
        )

    def whole(self) -> Difference:
        """Read the tensor to its end, to be stored whole.

        Raises:
            FormatError: A file cannot be read.
        """
        for start, stop in ranges(self._done, self._entry.nbytes, 1):
            self._next(start, stop - start)
        return Difference(self._record(Stored.WHOLE), self._entry)

    @property
    def _size(self) -> int:
        return 2 * self._codes + unit_of(self._entry.dtype) * self._weights

    def _record(self, stored: Stored) -> Record:
        entry = self._entry
        if self._done != entry.nbytes:
            raise RuntimeError(f"{entry.name}: {self._done} of {entry.nbytes} bytes were compared")
        return Record(entry.name, entry.dtype, entry.shape, self._digest.hexdigest(), stored)

    def _next(self, start: int, length: int) -> NDArray[np.uint8]:
        if start != self._done:
            raise RuntimeError(f"{self._entry.name}: byte {start} follows {self._done}")
        self._done += length
        stored = self._reader.raw_part(self._entry, start, self._done)
        self._digest.update(stored)
        return np.frombuffer(stored, np.uint8)

    def _collect(
        self, stored: NDArray[np.uint8], parts: Sequence[Part], *, converted: bool
    ) -> None:
        unit = unit_of(self._entry.dtype)
        wanted = as_units(stored, unit)
        differs = wanted != as_units(parts[0].data, unit)
        for part in parts[1:]:
            differs |= wanted != as_units(part.data, unit)
        if converted and self._entry.dtype in WEIGHT_DTYPES:
            # What bits a NaN gets when it is rounded depends on the machine.
            numbers = stored.view(DTYPES[self._entry.dtype].storage)
            differs |= ~finite(numbers, self._entry.dtype)
        places = np.flatnonzero(differs)
        if places.size:
            positions = places + parts[0].offset // unit
            codes = encode(positions, self._last)
            self._gaps.append(self._spool.append(codes.tobytes()))
            self._values.append(self._spool.append(wanted[places].tobytes()))
            self._last = int(positions[-1])
            self._codes += codes.size
            self._weights += places.size


def as_units(data: NDArray[np.generic], unit: int) -> NDArray[np.unsignedinteger]:
    """Return an array's bytes as bit patterns, shape ``(bytes / unit,)``; a view where it can."""
    flat = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    found: NDArray[np.unsignedinteger] = flat.view(f"<u{unit}")
    return found

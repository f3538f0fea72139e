"""Writes the tensors of a merged checkpoint one by one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from loragraft.adapter.delta import DeltaReader, slabs
from loragraft.dtypes import from_float32
from loragraft.errors import NonFiniteError
from loragraft.merging.patches import groups
from loragraft.number_formats import DTYPES, WEIGHT_DTYPES
from loragraft.weights.reader import rows
from loragraft.wording import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from loragraft.merging.patches import Patch
    from loragraft.safetensors_writer import SafetensorsWriter
    from loragraft.tensor_entry import TensorEntry
    from loragraft.tensor_reader import TensorReader


class TensorMerger:
    """Copies the tensors of a base, with the changes of an adapter added."""

    def __init__(
        self,
        reader: TensorReader,
        patches: Mapping[str, Sequence[Patch]],
        dtype: str | None,
        kept: frozenset[str],
    ) -> None:
        """Take what every tensor needs.

        Args:
            reader: Reads the base and the adapter.
            patches: Tensor -> what changes of it.
            dtype: What weights are stored in; None keeps each as it is.
            kept: Tensors that are copied whatever ``dtype`` is, such as the scales of codes.
        """
        self._reader, self._patches = reader, patches
        self._dtype, self._kept = dtype, kept
        self._deltas = DeltaReader(reader)

    def code(self, entry: TensorEntry) -> str:
        """Return the dtype that a tensor is written in."""
        converts = entry.dtype in WEIGHT_DTYPES and entry.name not in self._kept
        return self._dtype if self._dtype and converts else entry.dtype

    def nbytes(self, entry: TensorEntry) -> int:
        """Return the size that a tensor is written in."""
        code = self.code(entry)
        return entry.nbytes if code == entry.dtype else entry.parameters * _width(code)

    def write(self, writer: SafetensorsWriter, entry: TensorEntry) -> None:
        """Write one tensor.

        Raises:
            FormatError: A file cannot be read or written.
            NonFiniteError: A weight to write is NaN or Inf.
        """
        patches = self._patches.get(entry.name)
        if patches is None and self.code(entry) == entry.dtype:
            # Elements of some formats take no whole bytes.
            flat = replace(entry, dtype="U8", shape=(entry.nbytes,))
            for start, stop in _ranges(0, entry.nbytes, 1):
                writer.write_part(entry.name, self._reader.raw_rows(flat, start, stop), start)
            return
        done = 0
        for group in groups(patches or ()):
            first, last = group[0].first, max(patch.stop for patch in group)
            self._copy(writer, entry, done, first)
            if len(group) == 1 and group[0].is_whole:
                self._write_rows(writer, entry, group[0])
            else:
                self._write_strewn(writer, entry, group, (first, last))
            done = last
        self._copy(writer, entry, done, entry.parameters)

    def _copy(self, writer: SafetensorsWriter, entry: TensorEntry, start: int, stop: int) -> None:
        """Write numbers ``start:stop`` of a tensor, which no module changes."""
        code = self.code(entry)
        for begin, end in _ranges(start, stop, _width(code)):
            writer.write_part(entry.name, self._copied(entry, begin, end), begin * _width(code))

    def _copied(self, entry: TensorEntry, start: int, stop: int) -> NDArray[np.generic]:
        code, flat = self.code(entry), replace(entry, shape=(entry.parameters,))
        if code == entry.dtype:
            return self._reader.raw_rows(flat, start, stop)
        values = self._reader.rows(flat, start, stop)
        stored = from_float32(values, code)
        overflowed = ~_finite(stored, code) & np.isfinite(values)
        if overflowed.any():
            worst = float(np.abs(values[overflowed]).max())
            raise NonFiniteError(
                f"{shown(entry.path)}: tensor {entry.name} holds {worst:.4g}, which overflows"
                f" {code}; write another dtype"
            )
        return stored

    def _write_rows(self, writer: SafetensorsWriter, entry: TensorEntry, patch: Patch) -> None:
        """Write changed rows that lie one after the other."""
        width = _width(self.code(entry))
        for start, stored in self._changed(entry, patch):
            position = patch.first + start * patch.source.row_stride
            writer.write_part(entry.name, stored, position * width)

    def _write_strewn(
        self,
        writer: SafetensorsWriter,
        entry: TensorEntry,
        group: Sequence[Patch],
        span: tuple[int, int],
    ) -> None:
        """Write changed rows that others lie between, with all of these, from memory."""
        first, last = span
        whole = np.array(self._copied(entry, first, last))
        for patch in group:
            _, _, columns, begin, down, across = patch.source
            for start, stored in self._changed(entry, patch):
                place = whole[begin - first + start * down :]
                strides = (down * whole.itemsize, across * whole.itemsize)
                shape = (stored.shape[0], columns)
                np.lib.stride_tricks.as_strided(place, shape, strides)[:] = stored
        writer.write_part(entry.name, whole, first * _width(self.code(entry)))

    def _changed(
        self, entry: TensorEntry, patch: Patch
    ) -> Iterator[tuple[int, NDArray[np.generic]]]:
        """Yield (first row, changed rows as they are stored), slab by slab of the whole weight."""
        code = self.code(entry)
        delta = self._deltas.delta(patch.placement, patch.expert, transposed=patch.transposed)
        for start, stop in slabs(*patch.matrix):
            own = patch.piece.within(start, stop)
            if not own:
                continue
            weight = rows(self._reader, patch.source, own.start, own.stop)
            change = delta.rows(start, stop)[patch.piece.slots(own, start)]
            with np.errstate(over="ignore", invalid="ignore"):
                stored = from_float32(weight + change, code)
            if not _finite(stored, code).all():
                raise _not_finite(entry, code, weight)
            yield own.start, stored


def _ranges(start: int, stop: int, width: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of numbers, ``width`` bytes each, of about a slab."""
    scale = max(1, 4 // width)
    for low, high in slabs(-(-(stop - start) // scale), 1):
        yield start + scale * low, min(stop, start + scale * high)


def _width(code: str) -> int:
    return DTYPES[code].bits // 8


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

"""Writes the tensors of a merged checkpoint one by one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from loragraft.adapter.delta import DeltaReader, slabs
from loragraft.dtypes import from_float32
from loragraft.errors import NonFiniteError
from loragraft.merging.patches import groups
from loragraft.merging.stored import finite, ranges, stored_numbers, width
from loragraft.number_formats import WEIGHT_DTYPES
from loragraft.weights.reader import rows
from loragraft.wording import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from loragraft.adapter.restored import Restored
    from loragraft.merging.patches import Patch
    from loragraft.safetensors_writer import SafetensorsWriter
    from loragraft.tensor_entry import TensorEntry
    from loragraft.tensor_reader import TensorReader


class TensorMerger:
    """Copies the tensors of a base, with the changes of an adapter made."""

    def __init__(
        self,
        reader: TensorReader,
        patches: Mapping[str, Sequence[Patch]],
        dtype: str | None,
        kept: frozenset[str],
        replaced: Mapping[str, Restored],
    ) -> None:
        """Take what every tensor needs.

        Args:
            reader: Reads the base and the adapter.
            patches: Tensor -> what changes of it.
            dtype: What weights are stored in; None keeps each as it is.
            kept: Tensors that are copied whatever ``dtype`` is, such as the scales of codes.
            replaced: Tensor -> what takes its place, or that of its rows.
        """
        self._reader, self._patches, self._replaced = reader, patches, replaced
        self._dtype, self._kept = dtype, kept
        self._deltas = DeltaReader(reader)

    def code(self, entry: TensorEntry) -> str:
        """Return the dtype that a tensor is written in."""
        converts = entry.dtype in WEIGHT_DTYPES and entry.name not in self._kept
        return self._dtype if self._dtype and converts else entry.dtype

    def nbytes(self, entry: TensorEntry) -> int:
        """Return the size that a tensor is written in."""
        code = self.code(entry)
        return entry.nbytes if code == entry.dtype else entry.parameters * width(code)

    def write(self, writer: SafetensorsWriter, entry: TensorEntry) -> None:
        """Write one tensor.

        Raises:
            FormatError: A file cannot be read or written.
            NonFiniteError: A weight to write is NaN or Inf.
        """
        replaced = self._replaced.get(entry.name)
        if replaced is not None:
            self._write_replaced(writer, entry, replaced)
        elif entry.name in self._patches:
            self._write_patched(writer, entry, self._patches[entry.name])
        else:
            self._write_whole(writer, entry, entry)

    def _write_whole(
        self, writer: SafetensorsWriter, entry: TensorEntry, source: TensorEntry
    ) -> None:
        """Write a tensor with the numbers of another, or its own."""
        if source.dtype != self.code(entry):
            self._copy(writer, entry, 0, entry.parameters, source)
            return
        # Elements of some formats take no whole bytes.
        flat = replace(source, dtype="U8", shape=(source.nbytes,))
        for start, stop in ranges(0, source.nbytes, 1):
            writer.write_part(entry.name, self._reader.raw_rows(flat, start, stop), start)

    def _write_replaced(
        self, writer: SafetensorsWriter, entry: TensorEntry, replaced: Restored
    ) -> None:
        """Write what takes a tensor's place, or a matrix with other rows in place of some."""
        source, tokens = replaced.source, replaced.tokens
        if tokens is None:
            self._write_whole(writer, entry, source)
            return
        code, columns, done = self.code(entry), entry.shape[1], 0
        for token, row in sorted(zip(tokens, range(len(tokens)), strict=True)):
            self._copy(writer, entry, done, token * columns)
            stored = self._stored(entry, source, row * columns, (row + 1) * columns)
            writer.write_part(entry.name, stored, token * columns * width(code))
            done = (token + 1) * columns
        self._copy(writer, entry, done, entry.parameters)

    def _write_patched(
        self, writer: SafetensorsWriter, entry: TensorEntry, patches: Sequence[Patch]
    ) -> None:
        """Write a tensor with the changes that LoRA factors make."""
        done = 0
        for group in groups(patches):
            first, last = group[0].first, max(patch.stop for patch in group)
            self._copy(writer, entry, done, first)
            if len(group) == 1 and group[0].is_whole:
                self._write_rows(writer, entry, group[0])
            else:
                self._write_strewn(writer, entry, group, (first, last))
            done = last
        self._copy(writer, entry, done, entry.parameters)

    def _copy(
        self,
        writer: SafetensorsWriter,
        entry: TensorEntry,
        start: int,
        stop: int,
        source: TensorEntry | None = None,
    ) -> None:
        """Write numbers ``start:stop`` of a tensor, which no module changes, or another's."""
        each = width(self.code(entry))
        for begin, end in ranges(start, stop, each):
            stored = self._stored(entry, source or entry, begin, end)
            writer.write_part(entry.name, stored, begin * each)

    def _stored(
        self, entry: TensorEntry, source: TensorEntry, start: int, stop: int
    ) -> NDArray[np.generic]:
        return stored_numbers(self._reader, source, self.code(entry), start, stop)

    def _write_rows(self, writer: SafetensorsWriter, entry: TensorEntry, patch: Patch) -> None:
        """Write changed rows that lie one after the other."""
        each = width(self.code(entry))
        for start, stored in self._changed(entry, patch):
            position = patch.first + start * patch.source.row_stride
            writer.write_part(entry.name, stored, position * each)

    def _write_strewn(
        self,
        writer: SafetensorsWriter,
        entry: TensorEntry,
        group: Sequence[Patch],
        span: tuple[int, int],
    ) -> None:
        """Write changed rows that others lie between, with all of these, from memory."""
        first, last = span
        whole = np.array(self._stored(entry, entry, first, last))
        for patch in group:
            _, _, columns, begin, down, across = patch.source
            for start, stored in self._changed(entry, patch):
                place = whole[begin - first + start * down :]
                strides = (down * whole.itemsize, across * whole.itemsize)
                shape = (stored.shape[0], columns)
                np.lib.stride_tricks.as_strided(place, shape, strides)[:] = stored
        writer.write_part(entry.name, whole, first * width(self.code(entry)))

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
            if not finite(stored, code).all():
                raise _not_finite(entry, code, weight)
            yield own.start, stored


def _not_finite(entry: TensorEntry, code: str, weight: NDArray[np.float32]) -> NonFiniteError:
    where = f"{shown(entry.path)}: tensor {entry.name}"
    if not np.isfinite(weight).all():
        return NonFiniteError(f"{where} holds NaN or Inf: expected finite weights; repair the base")
    return NonFiniteError(
        f"{where}: with the adapter added a weight overflows {code}; write another dtype, or check"
        " that the adapter belongs to this model"
    )

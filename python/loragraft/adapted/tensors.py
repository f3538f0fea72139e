"""The tensors of a merged checkpoint one by one, in parts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from loragraft.adapted.patches import groups
from loragraft.adapted.stored import finite, ranges, stored_numbers, width
from loragraft.adapter.delta import DeltaReader, slabs
from loragraft.dtypes import from_float32
from loragraft.errors import NonFiniteError
from loragraft.finiteness import first_not_finite, place_of
from loragraft.weights.reader import rows
from loragraft.wording import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from loragraft.adapted.patches import Patch
    from loragraft.adapter.restored import Restored
    from loragraft.tensor_entry import TensorEntry
    from loragraft.tensor_reader import TensorReader


class Part(NamedTuple):
    """Numbers of a tensor that lie together.

    Attributes:
        offset: How many bytes of the tensor come before them.
        data: The numbers as they are stored, row-major; whoever gets them may change them.
    """

    offset: int
    data: NDArray[np.generic]


class TensorMerger:
    """Gives the tensors of a base, with the changes of an adapter made."""

    def __init__(
        self,
        reader: TensorReader,
        patches: Mapping[str, Sequence[Patch]],
        dtypes: Mapping[str, str],
        replaced: Mapping[str, Restored],
        deltas: DeltaReader | None = None,
    ) -> None:
        """Take what every tensor needs.

        Args:
            reader: Reads the base and the adapter.
            patches: Tensor -> what changes of it.
            dtypes: Tensor -> what it is to be stored in; weights alone can be stored in another
                dtype than the base's, which is that of tensors not named here.
            replaced: Tensor -> what takes its place, or that of its rows.
            deltas: Where the changes come from; by default the adapter as it is.
        """
        self._reader, self._patches, self._replaced = reader, patches, replaced
        self._dtypes = dtypes
        self._deltas = deltas or DeltaReader(reader)

    def code(self, entry: TensorEntry) -> str:
        """Return the dtype that a tensor is stored in."""
        return self._dtypes.get(entry.name, entry.dtype)

    def parts(self, entry: TensorEntry) -> Iterator[Part]:
        """Yield a tensor from its first byte to its last.

        Raises:
            FormatError: A file cannot be read.
            NonFiniteError: A weight to write is NaN or Inf.
        """
        replaced = self._replaced.get(entry.name)
        if replaced is not None:
            return self._replaced_parts(entry, replaced)
        if entry.name in self._patches:
            return self._patched(entry, self._patches[entry.name])
        return self._whole(entry, entry)

    def _whole(self, entry: TensorEntry, source: TensorEntry) -> Iterator[Part]:
        """Yield a tensor with the numbers of another, or its own."""
        if source.dtype != self.code(entry):
            yield from self._copied(entry, 0, entry.parameters, source)
            return
        # Elements of some formats take no whole bytes.
        flat = replace(source, dtype="U8", shape=(source.nbytes,))
        for start, stop in ranges(0, source.nbytes, 1):
            yield Part(start, self._reader.raw_rows(flat, start, stop))

    def _replaced_parts(self, entry: TensorEntry, replaced: Restored) -> Iterator[Part]:
        """Yield what takes a tensor's place, or a matrix with other rows in place of some."""
        source, tokens = replaced.source, replaced.tokens
        if tokens is None:
            yield from self._whole(entry, source)
            return
        code, columns, done = self.code(entry), entry.shape[1], 0
        for token, row in sorted(zip(tokens, range(len(tokens)), strict=True)):
            yield from self._copied(entry, done, token * columns)
            stored = self._stored(entry, source, row * columns, (row + 1) * columns)
            yield Part(token * columns * width(code), stored)
            done = (token + 1) * columns
        yield from self._copied(entry, done, entry.parameters)

    def _patched(self, entry: TensorEntry, patches: Sequence[Patch]) -> Iterator[Part]:
        """Yield a tensor with the changes that LoRA factors make."""
        done = 0
        for group in groups(patches):
            first, last = group[0].first, max(patch.stop for patch in group)
            yield from self._copied(entry, done, first)
            if len(group) == 1 and group[0].is_whole:
                yield from self._rows(entry, group[0])
            else:
                yield self._strewn(entry, group, (first, last))
            done = last
        yield from self._copied(entry, done, entry.parameters)

    def _copied(
        self, entry: TensorEntry, start: int, stop: int, source: TensorEntry | None = None
    ) -> Iterator[Part]:
        """Yield numbers ``start:stop`` of a tensor, which no module changes, or another's."""
        each = width(self.code(entry))
        for begin, end in ranges(start, stop, each):
            yield Part(begin * each, self._stored(entry, source or entry, begin, end))

    def _stored(
        self, entry: TensorEntry, source: TensorEntry, start: int, stop: int
    ) -> NDArray[np.generic]:
        return stored_numbers(self._reader, source, self.code(entry), start, stop)

    def _rows(self, entry: TensorEntry, patch: Patch) -> Iterator[Part]:
        """Yield changed rows that lie one after the other."""
        each = width(self.code(entry))
        for start, stored in self._changed(entry, patch):
            position = patch.first + start * patch.source.row_stride
            yield Part(position * each, stored)

    def _strewn(self, entry: TensorEntry, group: Sequence[Patch], span: tuple[int, int]) -> Part:
        """Return changed rows that others lie between, with all of these, from memory."""
        first, last = span
        whole = np.array(self._stored(entry, entry, first, last))
        for patch in group:
            _, _, columns, begin, down, across = patch.source
            for start, stored in self._changed(entry, patch):
                place = whole[begin - first + start * down :]
                strides = (down * whole.itemsize, across * whole.itemsize)
                shape = (stored.shape[0], columns)
                np.lib.stride_tricks.as_strided(place, shape, strides)[:] = stored
        return Part(first * width(self.code(entry)), whole)

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
                change += weight
                stored = from_float32(change, code)
            if not finite(stored, code).all():
                raise self._not_finite(entry, patch, own.start, finite(stored, code))
            yield own.start, stored

    def _not_finite(
        self, entry: TensorEntry, patch: Patch, start: int, finite_ones: NDArray[np.bool_]
    ) -> NonFiniteError:
        where = f"{shown(entry.path)}: tensor {entry.name}"
        what = first_not_finite(self._reader, entry)
        if what:
            return NonFiniteError(f"{where} holds {what}: expected finite weights; repair the base")
        row, column = divmod(int(np.argmin(finite_ones)), finite_ones.shape[1])
        _, _, _, first, down, across = patch.source
        place = place_of(entry, first + (start + row) * down + column * across)
        return NonFiniteError(
            f"{where}: with the adapter added the weight at {place} overflows {self.code(entry)};"
            " write another dtype, or check that the adapter belongs to this model"
        )

"""The rows of any source as numbers: the definitions of `weights.source`, in plain NumPy.

Nothing here is shared with the kernels, which are checked against it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from loragraft.number_formats import DTYPES, VALUE_DTYPES
from loragraft.weights.codes import BLOCK, FP4, TABLES, widen
from loragraft.weights.pieces import pieces
from loragraft.weights.source import Microscaled, Plain, Q8Blocks, Scaled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loragraft.tensor_entry import TensorEntry
    from loragraft.tensor_reader import TensorReader
    from loragraft.weights.pieces import Leaf
    from loragraft.weights.source import Source

#: Most bytes read at once where the numbers wanted do not lie together.
_MOST: Final = 4 << 20
#: Gaps are read too where the numbers wanted are at least this share of all.
_DENSE: Final = 0.25
#: A block of Q8_0.
_Q8: Final = np.dtype([("scale", "<f2"), ("codes", "i1", (BLOCK,))])


def rows(reader: TensorReader, source: Source, start: int, stop: int) -> NDArray[np.float32]:
    """Return rows ``start:stop`` of a matrix in float32.

    Weights and codes widen exactly; a code times its scale and factor is formed in float64 and
    rounded once.

    Raises:
        FormatError: A dtype that stands for no numbers, or a file that cannot be read.
        ValueError: The rows are not within the matrix.
    """
    _check(source, start, stop)
    if not isinstance(source, Plain | Scaled | Microscaled | Q8Blocks):
        out = np.empty((stop - start, source.columns), np.float32)
        for piece in pieces(source):
            own = piece.within(start, stop)
            if own:
                out[piece.slots(own, start)] = _leaf(reader, piece.source, own.start, own.stop)
        return out
    return _leaf(reader, source, start, stop)


def stored_rows(reader: TensorReader, source: Source, start: int, stop: int) -> NDArray[np.generic]:
    """Return rows of a matrix as they are stored; BF16 as bit patterns.

    Raises:
        FormatError: A file cannot be read.
        ValueError: The rows are not within the matrix, or it has no `weight_dtype`.
    """
    _check(source, start, stop)
    dtype = weight_dtype(source)
    if dtype is None:
        raise ValueError("the matrix is not stored as weights of one dtype")
    out = np.empty((stop - start, source.columns), DTYPES[dtype].storage)
    for piece in pieces(source):
        own = piece.within(start, stop)
        if own:
            assert isinstance(piece.source, Plain)
            out[piece.slots(own, start)] = _stored(reader, piece.source, own.start, own.stop)
    return out


def weight_dtype(source: Source) -> str | None:
    """Return the one dtype whose numbers a matrix is; None for codes with scales, and mixtures."""
    leaves = [piece.source for piece in pieces(source)]
    dtypes = {leaf.entry.dtype if isinstance(leaf, Plain) else "" for leaf in leaves}
    dtype = dtypes.pop()
    return dtype if not dtypes and dtype in VALUE_DTYPES else None


def _check(source: Source, start: int, stop: int) -> None:
    if not 0 <= start <= stop <= source.rows:
        raise ValueError(f"rows {start} to {stop} of a matrix of {source.rows}")


def _leaf(reader: TensorReader, source: Leaf, start: int, stop: int) -> NDArray[np.float32]:
    match source:
        case Plain():
            return np.ascontiguousarray(_plain(reader, source, start, stop))
        case Scaled():
            return _scaled(reader, source, start, stop)
        case Microscaled():
            return _microscaled(reader, source, start, stop)
        case Q8Blocks():
            return _q8(reader, source, start, stop)


def _plain(reader: TensorReader, source: Plain, start: int, stop: int) -> NDArray[np.float32]:
    return widen(_stored(reader, source, start, stop), source.entry.dtype)


def _scaled(reader: TensorReader, source: Scaled, start: int, stop: int) -> NDArray[np.float32]:
    down, across = source.block
    first = start // down
    last = -(-stop // down)
    scales = _plain(reader, source.scales, first, last).astype(np.float64)
    spread = scales[np.arange(start, stop) // down - first]
    values = _plain(reader, source.codes, start, stop).astype(np.float64) * source.factor
    with np.errstate(over="ignore", invalid="ignore"):
        values = values * spread[:, np.arange(source.columns) // across]
        return values.astype(np.float32)


def _microscaled(
    reader: TensorReader, source: Microscaled, start: int, stop: int
) -> NDArray[np.float32]:
    bytes_of = _of_rows(source, source.blocks, source.columns // 2)
    powers_of = _of_rows(source, source.scales, source.columns // BLOCK)
    codes = _stored(reader, bytes_of, start, stop).view(np.uint8)
    powers = TABLES["F8_E8M0"][_stored(reader, powers_of, start, stop).view(np.uint8)]
    values = np.empty((stop - start, source.columns), np.float32)
    values[:, 0::2] = FP4[codes & 15]
    values[:, 1::2] = FP4[codes >> 4]
    with np.errstate(over="ignore"):
        values *= np.repeat(powers, BLOCK, axis=1)
    return values


def _q8(reader: TensorReader, source: Q8Blocks, start: int, stop: int) -> NDArray[np.float32]:
    width = source.columns // BLOCK
    lines = np.empty((stop - start, width), _Q8)
    for i in range(start, stop):
        begin = (source.first_row + source.step * i) * width * _Q8.itemsize
        data = reader.raw_part(source.entry, begin, begin + width * _Q8.itemsize)
        lines[i - start] = np.frombuffer(data, _Q8)
    scales = lines["scale"].astype(np.float32)
    return (lines["codes"] * scales[:, :, None]).reshape(stop - start, source.columns)


def _of_rows(source: Microscaled, entry: TensorEntry, width: int) -> Plain:
    """Return the bytes that belong to a microscaled matrix, ``width`` to a row."""
    return Plain(entry, source.rows, width, source.first_row * width, source.step * width, 1)


def _stored(reader: TensorReader, source: Plain, start: int, stop: int) -> NDArray[np.generic]:
    """Return rows of numbers as they are stored."""
    entry, _, columns, first, down, across = source
    if start == stop or columns == 0:
        return np.empty((stop - start, columns), DTYPES[entry.dtype].storage)
    first += start * down
    last = first + (stop - start - 1) * down + (columns - 1) * across
    if first < 0 or last >= entry.parameters:
        raise ValueError(f"numbers {first} to {last} of {entry.name} with {entry.parameters}")
    if across <= down or stop - start == 1:
        return _lines(reader, entry, first, (stop - start, down), (columns, across))
    return _lines(reader, entry, first, (columns, across), (stop - start, down)).T


def _lines(
    reader: TensorReader,
    entry: TensorEntry,
    first: int,
    lines: tuple[int, int],
    along: tuple[int, int],
) -> NDArray[Any]:
    """Return numbers of a tensor as lines; ``lines`` and ``along`` are (count, stride)."""
    (count, pitch), (length, stride) = lines, along
    storage = np.dtype(DTYPES[entry.dtype].storage)
    size = storage.itemsize
    span = (length - 1) * stride + 1
    together = count if pitch == length and stride == 1 else 1
    if together < count and length >= _DENSE * pitch:
        together = max(1, _MOST // (pitch * size))
    out = np.empty((count, length), storage)
    for i in range(0, count, together):
        part = min(together, count - i)
        begin, numbers = first + i * pitch, (part - 1) * pitch + span
        data = reader.raw_part(entry, begin * size, (begin + numbers) * size)
        flat = np.frombuffer(data, storage)
        shape, strides = (part, length), (pitch * size, stride * size)
        if part == count:
            return np.lib.stride_tricks.as_strided(flat, shape, strides)
        out[i : i + part] = np.lib.stride_tricks.as_strided(flat, shape, strides)
    return out

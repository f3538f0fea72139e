"""Whole weights as arrays, and what identifies their content."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from loragraft.architecture.source_parts import turned
from loragraft.errors import NonFiniteError
from loragraft.finiteness import found_in
from loragraft.weights.reader import rows
from loragraft.weights.source import Microscaled, Plain, Q8Blocks, Scaled
from loragraft.wording import shown

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loragraft.architecture import LinearModule
    from loragraft.tensor_reader import TensorReader
    from loragraft.weights.source import Source

#: Bytes hashed at once.
_PART: Final = 8 << 20


def dense(reader: TensorReader, linear: LinearModule) -> NDArray[np.float32]:
    """Return a weight as (out, in), float32, whichever way round it is stored.

    Raises:
        FormatError: A file cannot be read, or the numbers cannot be computed with.
    """
    return np.ascontiguousarray(rows_out_in(reader, linear, 0, linear.shape[0]))


def rows_out_in(
    reader: TensorReader, linear: LinearModule, start: int, stop: int
) -> NDArray[np.float32]:
    """Return rows ``start:stop`` of a weight as (out, in).

    Raises:
        FormatError: A file cannot be read, or the numbers cannot be computed with.
    """
    return rows(reader, oriented(linear), start, stop)


def oriented(linear: LinearModule) -> Source:
    """Return where a weight lies, as (out, in), whichever way round it is stored."""
    (source,) = linear.matrices
    return turned(source) if linear.transposed else source


def not_finite(reader: TensorReader, linear: LinearModule) -> NonFiniteError:
    """Return the error of a weight that holds NaN or Inf."""
    entries = linear.matrices[0].entries
    entry, what = found_in(reader, entries) or (entries[0], "NaN or Inf")
    return NonFiniteError(
        f"{shown(entry.path)}: tensor {entry.name} holds {what}: expected finite weights;"
        " fetch the checkpoint again"
    )


def content_digest(reader: TensorReader, linear: LinearModule) -> bytes:
    """Return the SHA-256 of a weight: of the bytes it lies in and of where in them it lies.

    Raises:
        FormatError: A file cannot be read.
    """
    (source,) = linear.matrices
    digest = hashlib.sha256(repr((linear.transposed, _geometry(source))).encode())
    for entry in source.entries:
        for start in range(0, entry.nbytes, _PART):
            digest.update(reader.raw_part(entry, start, min(entry.nbytes, start + _PART)))
    return digest.digest()


def _geometry(source: Source) -> tuple[Any, ...]:
    """Return where the entries of a matrix lie, with no name or path in it."""
    if isinstance(source, Plain):
        return ("plain", source.entry.dtype, source.entry.shape, *source[1:])
    if isinstance(source, Scaled):
        codes, scales = _geometry(source.codes), _geometry(source.scales)
        return ("scaled", codes, scales, source.block, source.factor)
    if isinstance(source, Microscaled):
        return ("microscaled", source.blocks.shape, source.scales.shape, *source[2:])
    if isinstance(source, Q8Blocks):
        return ("q8", source.entry.shape, *source[1:])
    return (type(source).__name__, *map(_geometry, source.parts))

"""The numbers of a tensor as a merged checkpoint stores them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from loragraft.adapter.delta import slabs
from loragraft.dtypes import from_float32
from loragraft.errors import NonFiniteError
from loragraft.finiteness import place_of
from loragraft.number_formats import DTYPES
from loragraft.wording import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from loragraft.tensor_entry import TensorEntry
    from loragraft.tensor_reader import TensorReader


def stored_numbers(
    reader: TensorReader, entry: TensorEntry, code: str, start: int, stop: int
) -> NDArray[np.generic]:
    """Return numbers ``start:stop`` of a tensor, rounded to another dtype where it is one.

    Raises:
        FormatError: The file cannot be read, or holds no weights that could be rounded.
        NonFiniteError: A number overflows the dtype.
    """
    flat = replace(entry, shape=(entry.parameters,))
    if code == entry.dtype:
        return reader.raw_rows(flat, start, stop)
    values = reader.rows(flat, start, stop)
    stored = from_float32(values, code)
    overflowed = ~finite(stored, code) & np.isfinite(values)
    if overflowed.any():
        worst = float(np.abs(values[overflowed]).max())
        place = place_of(entry, start + int(np.argmax(overflowed)))
        raise NonFiniteError(
            f"{shown(entry.path)}: tensor {entry.name} holds {worst:.4g}, which overflows"
            f" {code}, the first such number at {place}; write another dtype"
        )
    return stored


def ranges(start: int, stop: int, bytes_each: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of numbers of about a slab."""
    scale = max(1, 4 // bytes_each)
    for low, high in slabs(-(-(stop - start) // scale), 1):
        yield start + scale * low, min(stop, start + scale * high)


def width(code: str) -> int:
    """Return how many bytes a number of a dtype takes."""
    return DTYPES[code].bits // 8


def finite(stored: NDArray[np.generic], code: str) -> NDArray[np.bool_]:
    """Say of every stored number whether it is neither NaN nor Inf."""
    found: NDArray[np.bool_]
    if code == "BF16":
        found = (stored.view(np.uint16) & 0x7F80) != 0x7F80
    else:
        found = np.isfinite(stored.view(DTYPES[code].storage))
    return found

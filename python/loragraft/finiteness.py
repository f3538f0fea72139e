"""Where in a tensor the first number lies that is none: for messages, once sums have told of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from loragraft.number_formats import WEIGHT_DTYPES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from loragraft.tensor_entry import TensorEntry
    from loragraft.tensor_reader import TensorReader

#: Numbers read at once.
_SLAB: Final = 1 << 20


def first_not_finite(reader: TensorReader, entry: TensorEntry) -> str:
    """Return what the first number of a tensor is that is NaN or Inf, and where: ``NaN at [3, 5]``.

    Empty where all numbers are finite, or codes that have no value by themselves.

    Raises:
        FormatError: The file cannot be read.
    """
    if entry.dtype not in WEIGHT_DTYPES:
        return ""
    flat = replace(entry, shape=(entry.parameters,))
    for start in range(0, entry.parameters, _SLAB):
        values = reader.rows(flat, start, min(entry.parameters, start + _SLAB))
        finite = np.isfinite(values)
        if not finite.all():
            first = int(np.argmin(finite))
            kind = "NaN" if np.isnan(values[first]) else "Inf"
            return f"{kind} at {place_of(entry, start + first)}"
    return ""


def found_in(
    reader: TensorReader, entries: Iterable[TensorEntry]
) -> tuple[TensorEntry, str] | None:
    """Return the first tensor that holds NaN or Inf, and what `first_not_finite` says of it.

    Raises:
        FormatError: A file cannot be read.
    """
    told = ((entry, first_not_finite(reader, entry)) for entry in entries)
    return next(((entry, what) for entry, what in told if what), None)


def place_of(entry: TensorEntry, number: int) -> str:
    """Return the index of a number of a tensor, counted in row-major order: ``[3, 5]``."""
    index: list[int] = []
    for length in reversed(entry.shape):
        number, rest = divmod(number, length)
        index.insert(0, rest)
    return str(index)

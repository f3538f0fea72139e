"""Read the rows of weights as arrays."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from loragraft.dtypes import to_float32
from loragraft.errors import FormatError
from loragraft.number_formats import DTYPES, WEIGHT_DTYPES
from loragraft.tensor_bytes import TensorBytes
from loragraft.wording import shown

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loragraft.tensor_entry import TensorEntry


class TensorReader(TensorBytes):
    """Reads weights row by row, as they are stored or widened to float32.

    Example:
        >>> with TensorReader() as reader:  # doctest: +SKIP
        ...     weight = reader.rows(entry, 0, 128)
    """

    def rows(self, entry: TensorEntry, start: int, stop: int) -> NDArray[np.float32]:
        """Read rows of a weight and widen them, which is exact.

        Args:
            entry: A BF16, F16 or F32 tensor with at least one dimension.
            start: First row.
            stop: Row after the last.

        Returns:
            Array of shape ``(stop - start, *entry.shape[1:])``.

        Raises:
            FormatError: The dtype is no weight dtype, the file cannot be read, or it changed.
            ValueError: The rows are not within the tensor.
        """
        if entry.dtype not in WEIGHT_DTYPES:
            raise FormatError(
                f"{shown(entry.path)}: tensor {entry.name!r} is {entry.dtype}, which cannot be"
                f" computed with: expected one of {', '.join(WEIGHT_DTYPES)}"
            )
        stored = self.raw_rows(entry, start, stop)
        if entry.dtype == "F32":
            return stored.astype(np.float32, copy=False)
        return to_float32(stored, entry.dtype)

    def raw_rows(self, entry: TensorEntry, start: int, stop: int) -> NDArray[np.generic]:
        """Read rows as they are stored; BF16 and 8-bit floats come as bit patterns.

        Args:
            entry: A tensor with at least one dimension.
            start: First row.
            stop: Row after the last.

        Returns:
            Array of shape ``(stop - start, *entry.shape[1:])`` in the dtype's storage type.

        Raises:
            FormatError: An element takes no whole bytes, the file cannot be read, or it changed.
            ValueError: The rows are not within the tensor.
        """
        dtype = DTYPES[entry.dtype]
        if dtype.bits % 8:
            raise FormatError(
                f"{shown(entry.path)}: tensor {entry.name!r} is {entry.dtype}, whose elements take"
                " no whole bytes: it can be copied but not read row by row"
            )
        if not entry.shape or not 0 <= start <= stop <= entry.shape[0]:
            raise ValueError(f"rows {start} to {stop} of {entry.name} with shape {entry.shape}")
        row_bytes = math.prod(entry.shape[1:]) * dtype.bits // 8
        buffer = np.empty((stop - start) * row_bytes, dtype=np.uint8)
        self._read(entry, buffer.data, start * row_bytes)
        return buffer.view(np.dtype(dtype.storage)).reshape(stop - start, *entry.shape[1:])

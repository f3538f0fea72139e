"""Read tensors by position, without mapping files into memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from loragraft.dtypes import DTYPES, WEIGHT_DTYPES, to_float32
from loragraft.errors import FormatError
from loragraft.input_file import InputFile, changed
from loragraft.wording import shown

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from numpy.typing import NDArray

    from loragraft.tensor_entry import TensorEntry


class TensorReader:
    """Reads tensors of any number of checkpoints; opens each file once.

    A file that is replaced or written to after its header was read is an error, and so is one
    that changes between two reads: no result mixes two states of a file.

    Example:
        >>> with TensorReader() as reader:  # doctest: +SKIP
        ...     weight = reader.rows(entry, 0, 128)
    """

    def __init__(self) -> None:
        self._files: dict[Path, InputFile] = {}
        self._closed = False

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

    def raw(self, entry: TensorEntry) -> bytes:
        """Return the bytes of a tensor of any dtype and shape.

        Raises:
            FormatError: The file cannot be read, or it changed.
        """
        data = bytearray(entry.nbytes)
        self._read(entry, memoryview(data), 0)
        return bytes(data)

    def _read(self, entry: TensorEntry, buffer: memoryview, start: int) -> None:
        file = self._open(entry.path)
        if entry.identity is not None and entry.identity != file.identity:
            raise changed(entry.path)
        file.read_into(buffer, entry.offset + start)

    def _open(self, path: Path) -> InputFile:
        if self._closed:
            raise ValueError("the reader is closed")
        file = self._files.get(path)
        if file is None:
            file = self._files[path] = InputFile(path)
        return file

    def close(self) -> None:
        """Close every file."""
        self._closed = True
        while self._files:
            self._files.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

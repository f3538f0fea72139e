"""Read the bytes of tensors by position, without mapping files into memory."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

from loragraft.input_file import InputFile, changed

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

    from loragraft.tensor_entry import TensorEntry


class TensorBytes:
    """Reads tensors of any number of checkpoints as they are stored; opens each file once.

    A file that is replaced or written to after its header was read is an error, and so is one
    that changes between two reads: no result mixes two states of a file. Threads may share a
    reader.
    """

    def __init__(self) -> None:
        self._files: dict[Path, InputFile] = {}
        self._closed = False
        self._lock = Lock()

    def raw(self, entry: TensorEntry) -> bytes:
        """Return the bytes of a tensor of any dtype and shape.

        Raises:
            FormatError: The file cannot be read, or it changed.
        """
        return bytes(self.raw_part(entry, 0, entry.nbytes))

    def raw_part(self, entry: TensorEntry, start: int, stop: int) -> bytearray:
        """Return bytes ``start:stop`` of a tensor.

        Raises:
            FormatError: The file cannot be read, or it changed.
        """
        data = bytearray(stop - start)
        self._read(entry, memoryview(data), start)
        return data

    def _read(self, entry: TensorEntry, buffer: memoryview, start: int) -> None:
        file = self._open(entry.path)
        if entry.identity is not None and entry.identity != file.identity:
            raise changed(entry.path)
        file.read_into(buffer, entry.offset + start)

    def _open(self, path: Path) -> InputFile:
        with self._lock:
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

    def __exit__(self, *_: object) -> None:
        self.close()

"""Factors on their way to the adapter file: kept in memory or in an unnamed temporary file.

Results come in any order and their ranks are known late, whereas the adapter file wants its layout
first. The spool lies between, so that memory does not grow with the adapter.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from loragraft.errors import FormatError
from loragraft.wording import reason, shown

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self


class Extent(NamedTuple):
    """Where a piece lies in the spool."""

    offset: int
    length: int


class Spool:
    """An append-only temporary file that has no name and vanishes with the process."""

    def __init__(self, directory: Path) -> None:
        """Open the spool on the file system of ``directory``, which must exist.

        Raises:
            FormatError: The directory cannot be written to.
        """
        self._where = directory
        try:
            self._fd = _unnamed_file(directory)
        except OSError as error:
            raise FormatError(f"{shown(directory)}: cannot be written: {reason(error)}") from error
        self._end = 0

    def append(self, data: bytes) -> Extent:
        """Store a piece and return where it lies.

        Raises:
            FormatError: The disk is full or fails.
        """
        extent = Extent(self._end, len(data))
        rest = memoryview(data)
        try:
            while rest:
                count = os.pwrite(self._fd, rest, self._end)
                rest, self._end = rest[count:], self._end + count
        except OSError as error:
            raise FormatError(
                f"{shown(self._where)}: cannot be written: {reason(error)}; free some space"
            ) from error
        return extent

    def read(self, extent: Extent) -> bytes:
        """Return a piece.

        Raises:
            FormatError: The disk fails.
        """
        pieces, offset, end = [], extent.offset, extent.offset + extent.length
        try:
            while offset < end:
                piece = os.pread(self._fd, end - offset, offset)
                if not piece:
                    raise FormatError(f"{shown(self._where)}: the temporary file was cut short")
                pieces.append(piece)
                offset += len(piece)
        except OSError as error:
            raise FormatError(f"{shown(self._where)}: cannot be read: {reason(error)}") from error
        return b"".join(pieces)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _unnamed_file(directory: Path) -> int:
    """Return the descriptor of a new file without a name."""
    try:
        return os.open(directory, os.O_RDWR | os.O_TMPFILE | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError:
        # Not every file system can do so; elsewhere the name is taken away at once.
        from tempfile import TemporaryFile  # noqa: PLC0415

        with TemporaryFile(dir=directory, buffering=0) as file:
            return os.dup(file.fileno())

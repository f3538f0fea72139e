"""Results on their way to a file, in a temporary one.

They come in any order and their sizes are known late, whereas a safetensors file wants its layout
first. The spool lies between, so that memory does not grow with the file.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from loragraft import system_calls
from loragraft.errors import FormatError
from loragraft.wording import reason, shown

if TYPE_CHECKING:
    from typing import Self


#: Where results lie in the directory of a run that is not finished.
SPOOL_FILE: Final = ".loragraft-spool"
#: Tells what is finished of it, and where that lies in the spool.
JOURNAL_FILE: Final = ".loragraft-journal"


class Extent(NamedTuple):
    """Where a piece lies in the spool, and its CRC-32."""

    offset: int
    length: int
    checksum: int


class Spool:
    """An append-only file."""

    def __init__(self, path: Path, fd: int) -> None:
        self._path = path
        self._fd = fd
        self._end = os.fstat(fd).st_size

    @classmethod
    def at(cls, path: Path, *, keep: bool = False) -> Self:
        """Open a spool, empty unless what it holds is to be kept.

        Raises:
            FormatError: The file cannot be written.
        """
        flags = os.O_RDWR | os.O_CREAT | (0 if keep else os.O_TRUNC)
        try:
            return cls(path, system_calls.open_file(path, flags, 0o600))
        except OSError as error:
            raise FormatError(f"{shown(path)}: cannot be written: {reason(error)}") from error

    @classmethod
    def unnamed(cls, directory: Path) -> Self:
        """Open a spool on disk that has no name, and so goes with the process.

        Raises:
            FormatError: The directory cannot be written to.
        """
        path = system_calls.temporary_name(directory)
        spool = cls.at(path)
        with contextlib.suppress(OSError):
            system_calls.remove(path)
        return spool

    @classmethod
    def in_memory(cls) -> Self:
        """Open a spool that lies in memory."""
        return cls(Path("memory"), os.memfd_create("factors", os.MFD_CLOEXEC))

    def holds(self, extent: Extent) -> bool:
        """Say whether a piece is there as it was stored.

        Raises:
            FormatError: The disk fails.
        """
        if extent.offset < 0 or not 0 <= extent.length <= self._end - extent.offset:
            return False
        return zlib.crc32(self.read(extent)) == extent.checksum

    def append(self, data: bytes) -> Extent:
        """Store a piece and return where it lies.

        Raises:
            FormatError: The disk is full or fails.
        """
        extent = Extent(self._end, len(data), zlib.crc32(data))
        try:
            system_calls.write_at(self._fd, data, self._end)
        except OSError as error:
            raise FormatError(
                f"{shown(self._path)}: cannot be written: {reason(error)}; free some space"
            ) from error
        self._end += len(data)
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
                    raise FormatError(f"{shown(self._path)}: the temporary file was cut short")
                pieces.append(piece)
                offset += len(piece)
        except OSError as error:
            raise FormatError(f"{shown(self._path)}: cannot be read: {reason(error)}") from error
        return b"".join(pieces)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

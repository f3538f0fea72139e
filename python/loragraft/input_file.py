"""Files that are read: regular files only, read by position, and watched for changes."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from loragraft.errors import FormatError
from loragraft.wording import reason, shown

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self


class FileIdentity(NamedTuple):
    """What stays the same as long as nobody replaces or rewrites a file."""

    device: int
    inode: int
    size: int
    mtime_ns: int


class InputFile:
    """An open regular file, read by position.

    Attributes:
        path: Where the file was opened.
        identity: What the file was when it was opened.
    """

    def __init__(self, path: Path) -> None:
        """Open `path`; following symbolic links, never waiting for a FIFO.

        Raises:
            FormatError: The file is missing, not readable, or not a regular file.
        """
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            raise FormatError(f"{shown(path)}: cannot be opened: {reason(error)}") from error
        try:
            self.identity = self._look()
        except FormatError:
            self.close()
            raise

    def _look(self) -> FileIdentity:
        try:
            status = os.fstat(self._fd)
        except OSError as error:
            raise FormatError(f"{shown(self.path)}: cannot be read: {reason(error)}") from error
        if not stat.S_ISREG(status.st_mode):
            raise FormatError(
                f"{shown(self.path)}: not a regular file: expected a file, got a directory, pipe,"
                " socket or device"
            )
        return FileIdentity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` (flat bytes) from `offset` on.

        Raises:
            FormatError: The disk fails, or the file ended early or changed since it was opened.
        """
        done = 0
        while done < len(buffer):
            try:
                count = os.preadv(self._fd, [buffer[done:]], offset + done)
            except OSError as error:
                raise FormatError(
                    f"{shown(self.path)}: cannot be read at byte {offset + done}: {reason(error)}"
                ) from error
            if count == 0:
                break
            done += count
        if self._look() != self.identity:
            raise changed(self.path)
        if done < len(buffer):
            raise FormatError(
                f"{shown(self.path)}: ended at byte {offset + done}, expected"
                f" {offset + len(buffer)} bytes: fetch or copy the file again"
            )

    def read(self, size: int, offset: int) -> bytes:
        """Return `size` bytes from `offset` on; raises as `read_into` does."""
        data = bytearray(size)
        self.read_into(memoryview(data), offset)
        return bytes(data)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def changed(path: Path) -> FormatError:
    """Return the error of a file that changed between two looks at it."""
    return FormatError(
        f"{shown(path)}: changed while it was being read (size, time or inode differ):"
        " wait until nothing writes to it and start again"
    )


def read_bytes(path: Path, limit: int) -> bytes:
    """Return the whole of a regular file of at most `limit` bytes.

    Raises:
        FormatError: The file cannot be read, is not regular, or is larger.
    """
    with InputFile(path) as file:
        if file.identity.size > limit:
            raise FormatError(
                f"{shown(path)}: {file.identity.size} bytes, expected at most {limit}"
            )
        return file.read(file.identity.size, 0)

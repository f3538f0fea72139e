"""The system calls that change files and directories: the package makes them here and nowhere else.

Each goes on where a signal interrupts it, and a write until all is written. So there is one place
to look at for what reaches a disk, and one at which tests let calls fail.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_NO_PREALLOCATION: Final = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_TEMPORARY: Final = re.compile(r"\.loragraft-\d+-[0-9a-f]{16}\.tmp")


def temporary_name(directory: Path) -> Path:
    """Return a name that no other file in a directory has, and that no reader takes for a result.

    What bears such a name while nobody works in the directory was left by a killed process.
    """
    return directory / f".loragraft-{os.getpid()}-{os.urandom(8).hex()}.tmp"


def is_temporary(name: str) -> bool:
    """Say whether a name is one of `temporary_name`."""
    return _TEMPORARY.fullmatch(name) is not None


def open_file(path: Path, flags: int, mode: int = 0o666) -> int:
    """Open a file to write to it; return its descriptor, which children do not inherit."""
    return int(_uninterrupted(os.open, path, flags | os.O_CLOEXEC, mode))


def write_at(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write flat bytes at an offset, all of them."""
    rest = memoryview(data)
    while rest:
        count = _some(_uninterrupted(os.pwrite, fd, rest, offset))
        rest, offset = rest[count:], offset + count


def append(fd: int, data: bytes) -> None:
    """Write bytes at the end of a file opened for appending, all of them."""
    rest = memoryview(data)
    while rest:
        rest = rest[_some(_uninterrupted(os.write, fd, rest)) :]


def reserve(fd: int, size: int) -> None:
    """Make a file so long, and take the disk space for it now where the file system can."""
    try:
        _uninterrupted(os.posix_fallocate, fd, 0, size)
    except OSError as error:
        if error.errno not in _NO_PREALLOCATION:
            raise
        _uninterrupted(os.ftruncate, fd, size)


def cut(fd: int, size: int) -> None:
    """Make a file so long."""
    _uninterrupted(os.ftruncate, fd, size)


def sync(fd: int) -> None:
    """Wait until a file or directory is on disk.

    An error is final: the system may have dropped what it could not write, and a second call would
    then find nothing wrong.
    """
    _uninterrupted(os.fsync, fd)


def link(existing: str | Path, name: str | Path, **options: Any) -> None:
    """Give a file another name, one that is not taken."""
    _uninterrupted(os.link, existing, name, **options)


def rename(old: Path, new: Path) -> None:
    """Give a file another name, which it takes from whatever has it."""
    _uninterrupted(os.replace, old, new)


def remove(path: Path) -> None:
    """Remove a file; none is no error."""
    with contextlib.suppress(FileNotFoundError):
        _uninterrupted(os.unlink, path)


def make_directories(path: Path) -> None:
    """Make a directory and those above it, as far as they are not there."""
    path.mkdir(parents=True, exist_ok=True)


def remove_directory(path: Path) -> None:
    """Remove an empty directory."""
    path.rmdir()


def mark_used(path: Path) -> None:
    """Set a file's times to now."""
    os.utime(path)


def _uninterrupted(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Make a call again for as long as signals interrupt it, which not all of Python's do."""
    while True:
        try:
            return call(*arguments, **options)
        except InterruptedError:
            continue


def _some(count: int) -> int:
    """Refuse to go on for ever with writes that write nothing."""
    if count == 0:
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    return count

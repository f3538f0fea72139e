"""Files that appear whole or not at all: temporary file, fsync, rename, fsync of the directory.

Where the filesystem can, the temporary file has no name until it is complete, so that even a
killed process leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING, Final

from loragraft import system_calls
from loragraft.errors import FormatError, UsageError
from loragraft.wording import reason, shown

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType
    from typing import Self

_NO_LINKS: Final = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
_HINTS: Final = {
    errno.ENOSPC: ": free some space or choose another place",
    errno.EDQUOT: ": free some space or choose another place",
    errno.EACCES: ": choose a directory that you may write to",
    errno.EROFS: ": choose a directory that you may write to",
    errno.ENOENT: ": make its directory first",
    errno.EFBIG: ": raise the limit on the size of files (ulimit -f)",
}


class AtomicFile:
    """A file under construction beside its destination, which it replaces on `commit`.

    Used as a context manager it commits on a clean exit and leaves nothing behind otherwise. A
    symbolic link at the destination is replaced, not followed.
    """

    def __init__(
        self, path: Path, *, overwrite: bool = True, mode: int = 0o666, lasting: bool = True
    ) -> None:
        """Create the temporary file.

        Args:
            path: Destination; its directory must exist.
            overwrite: Whether an existing destination may be replaced.
            mode: Permissions, from which the umask is taken.
            lasting: Whether the file must outlive a crash of the machine; if not, it may then be
                found cut short, and nobody waits for the disk.

        Raises:
            FormatError: The directory cannot be written to, or the destination is no file.
            UsageError: The destination exists and `overwrite` is false.
        """
        self.path = path
        self._overwrite, self._lasting = overwrite, lasting
        _check_destination(path, overwrite=overwrite)
        self._temporary = system_calls.temporary_name(path.parent)
        self._anonymous = _can_be_anonymous(path.parent)
        try:
            if self._anonymous:
                flags = os.O_RDWR | os.O_TMPFILE
                self._fd = system_calls.open_file(path.parent, flags, mode)
            else:
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
                self._fd = system_calls.open_file(self._temporary, flags, mode)
        except OSError as error:
            raise _failed(self.path, error) from error

    @property
    def closed(self) -> bool:
        """Whether the file has been committed or given up."""
        return self._fd < 0

    def reserve(self, size: int) -> None:
        """Make the file `size` bytes long and take the disk space for it now.

        Raises:
            FormatError: There is not enough space. The temporary file stays until `abort`.
        """
        try:
            system_calls.reserve(self._fd, size)
        except OSError as error:
            raise _failed(self.path, error) from error

    def write(self, data: bytes | memoryview, offset: int) -> None:
        """Write flat bytes at `offset`.

        Raises:
            FormatError: The disk is full or fails.
            RuntimeError: The file is committed or given up.
        """
        self._check_open()
        try:
            system_calls.write_at(self._fd, data, offset)
        except OSError as error:
            raise _failed(self.path, error) from error

    def commit(self) -> None:
        """Put the file in its place, safely on disk; or leave nothing of it.

        Raises:
            FormatError: The disk fails.
            RuntimeError: The file is committed or given up already.
            UsageError: The destination has come into being and may not be replaced.
        """
        self._check_open()
        try:
            if self._lasting:
                system_calls.sync(self._fd)
            if self._anonymous:
                _link_anonymous(self._fd, self._temporary)
            self._close()
            self._move()
            if self._lasting:
                sync_directory(self.path.parent)
        except OSError as error:
            self.abort()
            raise _failed(self.path, error) from error
        except BaseException:
            self.abort()
            raise

    def _move(self) -> None:
        if not self._overwrite:
            try:
                # A link, unlike a rename, never replaces what somebody made meanwhile.
                system_calls.link(self._temporary, self.path)
            except FileExistsError as error:
                raise _exists(self.path) from error
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                _check_destination(self.path, overwrite=False)
            else:
                system_calls.remove(self._temporary)
                return
        system_calls.rename(self._temporary, self.path)

    def abort(self) -> None:
        """Remove the temporary file; harmless when there is none any more."""
        self._close()
        with contextlib.suppress(OSError):
            system_calls.remove(self._temporary)

    def _check_open(self) -> None:
        if self.closed:
            raise RuntimeError(f"{shown(self.path)}: is committed or given up already")

    def _close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.abort()
        elif not self.closed:
            self.commit()


def check_writable(directory: Path) -> None:
    """Refuse a directory that no file can be made in, before the work that would go there.

    Raises:
        FormatError: It is one.
    """
    if _can_be_anonymous(directory):
        return
    name = system_calls.temporary_name(directory)
    try:
        os.close(system_calls.open_file(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        system_calls.remove(name)
    except OSError as error:
        raise _failed(directory, error) from error


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Write a small file so that it appears whole or not at all, replacing what is there.

    Raises:
        FormatError: The file cannot be written.
    """
    with AtomicFile(path, mode=0o644) as file:
        file.write(data, 0)


def write_text_atomic(path: Path, text: str) -> None:
    """Write a small UTF-8 file as `write_bytes_atomic` does."""
    # Paths may hold bytes that are no UTF-8; written so, they are valid in JSON too.
    write_bytes_atomic(path, text.encode("utf-8", "backslashreplace"))


def _can_be_anonymous(directory: Path) -> bool:
    """Whether a file without a name can be made in a directory and be named later.

    Tried out, for to learn it after hours of work would be too late.
    """
    name = system_calls.temporary_name(directory)
    try:
        fd = system_calls.open_file(directory, os.O_RDWR | os.O_TMPFILE, 0o600)
    except OSError:
        return False
    try:
        _link_anonymous(fd, name)
        system_calls.remove(name)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _link_anonymous(fd: int, name: Path) -> None:
    directory = os.open(name.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Only with a directory descriptor does Python follow the link in /proc to the file.
        system_calls.link(
            f"/proc/self/fd/{fd}", name.name, dst_dir_fd=directory, follow_symlinks=True
        )
    finally:
        os.close(directory)


def _failed(path: Path, error: OSError) -> FormatError:
    hint = _HINTS.get(error.errno or 0, "")
    return FormatError(f"{shown(path)}: cannot be written: {reason(error)}{hint}")


def _exists(path: Path) -> UsageError:
    return UsageError(f"{shown(path)}: exists already: choose another name or allow overwriting")


def _check_destination(path: Path, *, overwrite: bool) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise FormatError(f"{shown(path)}: cannot be written: {reason(error)}") from error
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise FormatError(f"{shown(path)}: cannot be written: it exists and is not a regular file")
    if not overwrite:
        raise _exists(path)


def sync_directory(directory: Path) -> None:
    """Wait until the names in a directory are on disk, where its file system can do that.

    Raises:
        OSError: The disk fails.
    """
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            system_calls.sync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        # Some filesystems cannot sync a directory, and one may be writable but not readable; the
        # rename itself is done.
        if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP, errno.EACCES}:
            raise

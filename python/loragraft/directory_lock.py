"""One run at a time in a directory, whatever file system it lies on."""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING, Final

from loragraft import system_calls
from loragraft.errors import FormatError, UsageError
from loragraft.wording import reason, shown

if TYPE_CHECKING:
    from pathlib import Path

#: Lies in the directory where the directory itself cannot be locked.
LOCK_FILE: Final = ".loragraft-lock"
_LONGEST: Final = 300


class DirectoryLock:
    """A directory in use by this run.

    Local file systems lock the directory itself. Network ones often lock only what is open for
    writing: there a file in the directory is locked. Where nothing can be locked, the file itself
    is the lock, and tells whose it is. All but that one go with the process, however it ends; that
    one is taken over from a process of this machine that is no more.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / LOCK_FILE
        self._fd = -1
        self._has_file = False

    def take(self) -> None:
        """Lock the directory.

        Raises:
            UsageError: Another run is writing there.
            FormatError: Nothing can be written there.
        """
        try:
            if not self._locks_directory():
                self._take_file()
        except BlockingIOError:
            self.release()
            raise UsageError(
                f"{shown(self._directory)}: another run is writing there; choose another directory"
            ) from None
        except OSError as error:
            self.release()
            raise FormatError(
                f"{shown(self._directory)}: cannot be written: {reason(error)}: choose a directory"
                " that you may write to"
            ) from error

    def _locks_directory(self) -> bool:
        try:
            self._fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            # It may be writable and not readable.
            return False
        if _flock(self._fd):
            return True
        self._close()
        return False

    def _take_file(self) -> None:
        """Lock the file, or let it be the lock.

        Raises:
            BlockingIOError: Another run has it.
            UsageError: So it seems.
            OSError: It cannot be made.
        """
        while True:
            made = self._make_file()
            if not made and not self._open_file():
                continue
            if _flock(self._fd):
                if self._is_there():
                    self._has_file = True
                    return
                # Whoever had it removed it before it was locked here.
                self._close()
            elif made:
                self._has_file = True
                system_calls.append(self._fd, f"{os.getpid()} {os.uname().nodename}".encode())
                return
            else:
                self._take_over()

    def _make_file(self) -> bool:
        try:
            self._fd = system_calls.open_file(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            return False
        return True

    def _open_file(self) -> bool:
        try:
            self._fd = system_calls.open_file(self._path, os.O_RDWR)
        except FileNotFoundError:
            return False
        return True

    def _is_there(self) -> bool:
        try:
            found = os.stat(self._path)  # noqa: PTH116 -- beside fstat
        except FileNotFoundError:
            return False
        return os.path.samestat(found, os.fstat(self._fd))

    def _take_over(self) -> None:
        """Remove the file of a run that is no more, and refuse where it may go on."""
        text = os.pread(self._fd, _LONGEST, 0).decode(errors="replace")
        self._close()
        process, _, host = text.partition(" ")
        if host == os.uname().nodename and process.isdecimal() and not _lives(int(process)):
            # By a name of its own: of two that do this, one removes what is no more.
            gone = system_calls.temporary_name(self._directory)
            with contextlib.suppress(FileNotFoundError):
                system_calls.rename(self._path, gone)
            system_calls.remove(gone)
            return
        owner = shown(f"process {process} on {host}") if host else "an unknown process"
        raise UsageError(
            f"{shown(self._directory)}: another run is writing there ({owner}); choose another"
            f" directory, or remove {LOCK_FILE} in it if that run is no more"
        )

    def remove_file(self) -> None:
        """Remove the file, if there is one, so that the directory can be removed."""
        if self._has_file:
            with contextlib.suppress(OSError):
                system_calls.remove(self._path)
            self._has_file = False

    def release(self) -> None:
        """Let others have the directory; harmless when it is not locked."""
        self.remove_file()
        self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _flock(fd: int) -> bool:
    """Lock a file; False where its file system cannot.

    Raises:
        BlockingIOError: Somebody else has locked it.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True

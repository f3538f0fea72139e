"""The directory that a checkpoint or an adapter is written to."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from typing import TYPE_CHECKING, Final

from loragraft.errors import FormatError, UsageError
from loragraft.wording import reason, shown, size

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path
    from types import TracebackType
    from typing import Self

#: What a loader would take for part of the checkpoint, were it left from an earlier one.
_STALE: Final = ("config.json", "*.safetensors.index.json", "*.safetensors")


def check_destination(output: Path, inputs: Iterable[Path], *, force: bool) -> None:
    """Refuse a directory that must not be written to.

    Args:
        output: The directory; it need not exist.
        inputs: Directories that are read from.
        force: Whether a checkpoint in ``output`` may be replaced.

    Raises:
        UsageError: It is an input, it is no directory, or it holds something and ``force`` is
            False.
        FormatError: It cannot be looked at.
    """
    try:
        if any(output.resolve() == directory.resolve() for directory in inputs):
            raise UsageError(
                f"{shown(output)}: is an input too, and would be overwritten while it is read;"
                " choose another output directory"
            )
        if not output.exists():
            return
        if not output.is_dir():
            raise UsageError(f"{shown(output)}: exists and is no directory; choose another name")
        if not force and any(output.iterdir()):
            raise _exists(output)
    except (OSError, ValueError, RuntimeError) as error:  # a loop of links is a RuntimeError
        raise FormatError(f"{shown(output)}: cannot be used: {reason(error)}") from error


def _exists(output: Path) -> UsageError:
    return UsageError(
        f"{shown(output)}: exists and is not empty; choose another directory, or --force to replace"
        " what is in it"
    )


def check_space(output: Path, needed: int) -> None:
    """Refuse to begin what the disk cannot hold.

    Args:
        output: The directory; it need not exist.
        needed: Bytes that will be written.

    Raises:
        FormatError: The file system has less space free.
    """
    place = next(place for place in (output, *output.absolute().parents) if place.exists())
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        raise FormatError(f"{shown(place)}: cannot be used: {reason(error)}") from error
    if free < needed:
        raise FormatError(
            f"{shown(output)}: needs {size(needed)}, but {size(free)} are free; free"
            " some space or choose another place"
        )


class Destination:
    """An output directory in use: what is written there goes away again on an error.

    Only one run may use a directory at a time; the lock goes with the process, however it ends.

    Attributes:
        directory: The directory; made if it does not exist.
        force: Whether it may hold something already.
        written: Files to take back if the work fails.
    """

    def __init__(self, directory: Path, force: bool = True) -> None:
        self.directory = directory
        self.force = force
        self.written: list[Path] = []
        self._made: list[Path] = []
        self._lock = -1

    def __enter__(self) -> Self:
        for place in (self.directory, *self.directory.absolute().parents):
            if place.exists():
                break
            self._made.append(place)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._remove_made()
            raise FormatError(
                f"{shown(self.directory)}: cannot be made: {reason(error)}"
            ) from error
        self._take_lock()
        return self

    def _take_lock(self) -> None:
        """Refuse a directory that another run is writing to, or has just written to."""
        try:
            self._lock = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            taken = not self.force and any(self.directory.iterdir())
        except BlockingIOError:
            self._release()
            raise UsageError(
                f"{shown(self.directory)}: another run is writing there; choose another directory"
            ) from None
        except OSError:
            # A file system without locks, or a directory that may be written to but not read.
            return
        if taken:
            self._release()
            raise _exists(self.directory)

    def _release(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def clear(self, keep: Collection[str]) -> None:
        """Remove what is left of an earlier checkpoint, its config.json first.

        Args:
            keep: File names that will be replaced and may stay until then.

        Raises:
            FormatError: A file cannot be removed.
        """
        try:
            for pattern in _STALE:
                for path in self.directory.glob(pattern):
                    if path.name not in keep:
                        path.unlink()
        except OSError as error:
            raise FormatError(
                f"{shown(self.directory)}: cannot be cleared: {reason(error)}"
            ) from error

    def file(self, name: str) -> Path:
        """Return where a file goes, and take it back should the work fail."""
        path = self.directory / name
        self.written.append(path)
        return path

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            with contextlib.suppress(OSError):
                for path in reversed(self.written):
                    path.unlink(missing_ok=True)
            self._remove_made()
        self._release()

    def _remove_made(self) -> None:
        for place in self._made:
            # The innermost may not have come into being; one that is not empty stays.
            with contextlib.suppress(OSError):
                place.rmdir()

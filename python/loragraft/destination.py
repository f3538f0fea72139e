"""The directory that a checkpoint or an adapter is written to."""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING, Final

from loragraft import system_calls
from loragraft.atomic_file import check_writable, sync_directory
from loragraft.directory_lock import LOCK_FILE, DirectoryLock
from loragraft.errors import FormatError, UsageError
from loragraft.spool import JOURNAL_FILE, SPOOL_FILE
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
        if not force and _holds_something(output):
            raise _exists(output)
    except (OSError, ValueError, RuntimeError) as error:  # a loop of links is a RuntimeError
        raise FormatError(f"{shown(output)}: cannot be used: {reason(error)}") from error


def _litter(directory: Path) -> list[Path]:
    """Return what killed runs have left in a directory that no run can go on with."""
    paths = list(directory.iterdir())
    names = {path.name for path in paths}
    spool = {SPOOL_FILE} if JOURNAL_FILE not in names else set()
    return [path for path in paths if system_calls.is_temporary(path.name) or path.name in spool]


def _holds_something(directory: Path) -> bool:
    own = {path.name for path in _litter(directory)} | {LOCK_FILE}
    return any(path.name not in own for path in directory.iterdir())


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

    Only one run may use a directory at a time. What killed runs left there that is of no use any
    more is removed.

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
        self._lock = DirectoryLock(directory)

    def __enter__(self) -> Self:
        for place in (self.directory, *self.directory.absolute().parents):
            if place.exists():
                break
            self._made.append(place)
        try:
            system_calls.make_directories(self.directory)
        except OSError as error:
            self._remove_made()
            raise FormatError(
                f"{shown(self.directory)}: cannot be made: {reason(error)}"
            ) from error
        try:
            self._lock.take()
            self._prepare()
        except BaseException:
            self._leave()
            raise
        return self

    def _prepare(self) -> None:
        """Refuse what another run has just written, or what cannot be written to; tidy up."""
        # A directory may be writable and not readable.
        with contextlib.suppress(OSError):
            if not self.force and _holds_something(self.directory):
                raise _exists(self.directory)
            self._tidy()
        check_writable(self.directory)

    def _tidy(self) -> None:
        for path in _litter(self.directory):
            system_calls.remove(path)

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
                        system_calls.remove(path)
        except OSError as error:
            raise FormatError(
                f"{shown(self.directory)}: cannot be cleared: {reason(error)}"
            ) from error
        self.sync()

    def sync(self) -> None:
        """Wait until what was removed is gone from disk: what is written next does not go with it.

        Raises:
            FormatError: The disk fails.
        """
        try:
            sync_directory(self.directory)
        except OSError as error:
            raise FormatError(
                f"{shown(self.directory)}: cannot be written: {reason(error)}"
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
            for path in reversed(self.written):
                with contextlib.suppress(OSError):
                    system_calls.remove(path)
        # Of what this run could not remove when it should have been.
        with contextlib.suppress(OSError):
            self._tidy()
        if kind is not None:
            self._leave()
        self._lock.release()

    def _leave(self) -> None:
        """Remove directories that were made in vain, while nobody else can begin there."""
        self._lock.remove_file()
        self._remove_made()
        self._lock.release()

    def _remove_made(self) -> None:
        for place in self._made:
            # The innermost may not have come into being; one that is not empty stays.
            with contextlib.suppress(OSError):
                system_calls.remove_directory(place)

"""A file of JSON lines to which results are added while work goes on, so that it can go on later.

Every run begins with a line that tells what its results depend on; a line for each result follows.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeVar

from loragraft import system_calls
from loragraft.errors import FormatError, UsageError
from loragraft.wording import quoted, reason, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path
    from typing import Self

_Setting = TypeVar("_Setting")
#: What the first line begins with, whatever it tells of.
_BEGINNING: Final = b'{"schema": "loragraft.'


class ResultsFile:
    """The file of one run.

    Attributes:
        rows: What earlier runs left in it; lines that are no JSON objects are left out.
    """

    def __init__(self, path: Path | None) -> None:
        """Prepare a file; without a path nothing outlives the run."""
        self._path, self._fd = path, -1
        self.rows: tuple[dict[str, Any], ...] = ()

    @classmethod
    def begin(cls, path: Path | None) -> Self:
        """Start anew.

        Raises:
            FormatError: The file cannot be written.
        """
        file = cls(path)
        file._open(os.O_TRUNC)
        return file

    @classmethod
    def go_on(cls, path: Path) -> Self:
        """Read what a stopped run left, if anything, and go on behind it.

        Raises:
            FormatError: The file cannot be read or written.
        """
        file = cls(path)
        file._open(0)
        file._read(path)
        return file

    def read_by(self, take: Callable[[Mapping[str, Any]], None]) -> None:
        """Show what earlier runs left to a function, row by row.

        Raises:
            UsageError: The function did not find in a row what belongs there.
        """
        try:
            for row in self.rows:
                take(row)
        except (KeyError, TypeError, ValueError):
            raise self.foreign() from None

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows, all of them at once.

        Raises:
            FormatError: The disk is full or fails.
        """
        if self._path is None:
            return
        data = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        try:
            system_calls.append(self._fd, data)
        except OSError as error:
            raise self._failed(error) from error

    def close(self, *, keep: bool) -> None:
        """Close the file, and remove it unless it is worth keeping."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._path is not None and not keep:
            system_calls.remove(self._path)

    def require_same(self, what: str, ours: Mapping[str, str], theirs: Mapping[str, str]) -> None:
        """Refuse to go on where a name means something else than before.

        Args:
            what: What is named.
            ours: Hashes by name.
            theirs: Those of the run that is gone on with.

        Raises:
            UsageError: A name does.
        """
        for name in ours.keys() & theirs.keys():
            if ours[name] != theirs[name]:
                raise self.other(f"another {what} {quoted(name)}")

    def other(self, what: str) -> UsageError:
        """Return the error that the results in the file are of something else."""
        directory = "" if self._path is None else shown(self._path.parent)
        return UsageError(
            f"{directory}: holds results of {what}; choose another directory, or give --force"
            " instead of --resume to start again"
        )

    def foreign(self) -> UsageError:
        """Return the error that something else wrote the file."""
        return UsageError(
            f"{shown(self._path or '')}: was not written by an evaluation; give --force instead of"
            " --resume to start again"
        )

    def _read(self, path: Path) -> None:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise FormatError(f"{shown(path)}: cannot be read: {reason(error)}") from error
        whole = data.rfind(b"\n") + 1
        self.rows = tuple(filter(None, map(_parsed, data[:whole].split(b"\n"))))
        if (whole and not self.rows) or not _BEGINNING.startswith(data[: len(_BEGINNING)]):
            raise self.foreign()
        if whole < len(data):
            self._cut(whole)

    def _cut(self, size: int) -> None:
        """Remove the last line, which a crash cut short."""
        try:
            system_calls.cut(self._fd, size)
        except OSError as error:
            raise self._failed(error) from error

    def _open(self, flags: int) -> None:
        if self._path is None:
            return
        try:
            self._fd = system_calls.open_file(
                self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | flags
            )
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> FormatError:
        return FormatError(f"{shown(self._path or '')}: cannot be written: {reason(error)}")


class ResultsJournal(Generic[_Setting]):
    """What a run keeps in a `ResultsFile`, by what its results depend on.

    Attributes:
        name: Of the file.
        setting: Of this run, or of the one that it goes on with.
    """

    name: ClassVar[str]

    def __init__(self, file: ResultsFile) -> None:
        """Take over what a file holds.

        Raises:
            UsageError: Something else wrote it.
        """
        self._file = file
        self.setting: _Setting | None = None
        file.read_by(self._take)
        if file.rows and self.setting is None:
            raise file.foreign()

    @classmethod
    def begin(cls, directory: Path | None) -> Self:
        """Start anew; without a directory nothing outlives the run.

        Raises:
            FormatError: The file cannot be written.
        """
        return cls(ResultsFile.begin(None if directory is None else directory / cls.name))

    @classmethod
    def go_on(cls, directory: Path) -> Self:
        """Read what a stopped run left, and go on behind it.

        Raises:
            FormatError: The file cannot be read or written.
            UsageError: Something else wrote it.
        """
        return cls(ResultsFile.go_on(directory / cls.name))

    def _take(self, row: Mapping[str, Any]) -> None:
        """Take a setting, or a result, out of a row."""
        raise NotImplementedError


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None

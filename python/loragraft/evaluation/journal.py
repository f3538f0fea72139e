"""The results of every question, kept while the work goes on, so that a stopped run can go on.

One file of JSON lines in the output directory. Every run begins with a line that tells by hashes
what is asked and who answers; a line for each question and candidate follows. What a later run asks
of the same candidates is not computed again.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from loragraft import system_calls
from loragraft.errors import FormatError, UsageError
from loragraft.wording import quoted, reason, shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Self

ITEMS_FILE: Final = "items.jsonl"
_SCHEMA: Final = "loragraft.items/1"
#: Of a file that an evaluation began, however soon a crash ended it.
_BEGINNING: Final = f'{{"schema": "{_SCHEMA}"'.encode()
_PIECE: Final = 1 << 20


class Setting(NamedTuple):
    """What results depend on.

    Attributes:
        tasks: Hash of what is asked, by the name of the task.
        candidates: Hash of its files, by the name of the candidate.
        dtype: What is computed with.
        tokens: Tokens of a batch: other batches round otherwise.
        questions: Questions of a batch; None to go by the tokens.
    """

    tasks: Mapping[str, str]
    candidates: Mapping[str, str]
    dtype: str
    tokens: int
    questions: int | None


class Journal:
    """The journal of one run.

    Attributes:
        setting: Of this run; where it goes on with another, computed like that.
        results: Log-likelihoods of the answers by task, candidate and number of the question.
    """

    def __init__(self, path: Path | None) -> None:
        """Prepare a journal; without a path nothing outlives the run."""
        self._path, self._fd = path, -1
        self.results: dict[tuple[str, str], dict[int, tuple[float, ...]]] = {}
        self.setting: Setting | None = None

    @classmethod
    def begin(cls, directory: Path | None) -> Self:
        """Start anew.

        Raises:
            FormatError: The file cannot be written.
        """
        journal = cls(None if directory is None else directory / ITEMS_FILE)
        journal._open(os.O_CREAT | os.O_TRUNC)
        return journal

    @classmethod
    def go_on(cls, directory: Path) -> Self:
        """Read what a stopped run left, and go on behind it.

        Raises:
            FormatError: The file cannot be read or written.
        """
        journal = cls(directory / ITEMS_FILE)
        journal._open(0)
        try:
            journal._read()
        except BaseException:
            journal.close()
            raise
        return journal

    def agree(self, setting: Setting) -> None:
        """Say what this run depends on.

        Raises:
            UsageError: The run that is gone on with had something else by the same name.
        """
        before = self.setting
        if before is not None:
            for what, ours, theirs in (
                ("task", setting.tasks, before.tasks),
                ("candidate", setting.candidates, before.candidates),
            ):
                for name in ours.keys() & theirs.keys():
                    if ours[name] != theirs[name]:
                        raise self._other(f"another {what} {quoted(name)}")
            if setting.dtype != before.dtype:
                raise self._other(f"--dtype {before.dtype}, not {setting.dtype}")
            if setting.questions != before.questions:
                raise self._other(f"another --batch-size than {setting.questions or 'auto'}")
            setting = setting._replace(
                tasks={**before.tasks, **setting.tasks},
                candidates={**before.candidates, **setting.candidates},
                tokens=before.tokens,
            )
        self.setting = setting
        self._append({"schema": _SCHEMA, **setting._asdict()})

    def record(
        self, task: str, candidate: str, ids: Sequence[str], found: Mapping[int, tuple[float, ...]]
    ) -> None:
        """Note the results of some questions.

        Args:
            task: Its name.
            candidate: Its name.
            ids: Of all questions of the task.
            found: Log-likelihoods of the answers by number of the question.

        Raises:
            FormatError: The disk is full or fails.
        """
        self.of(task, candidate).update(found)
        rows = (
            {
                "task": task,
                "candidate": candidate,
                "question": number,
                "id": ids[number],
                "log_likelihoods": values,
            }
            for number, values in found.items()
        )
        self._write(b"".join(json.dumps(row).encode() + b"\n" for row in rows))

    def of(self, task: str, candidate: str) -> dict[int, tuple[float, ...]]:
        """Return what is known of a candidate and a task, by number of the question."""
        return self.results.setdefault((task, candidate), {})

    @property
    def known(self) -> int:
        """Questions answered, by all candidates together."""
        return sum(map(len, self.results.values()))

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _other(self, what: str) -> UsageError:
        directory = shown(self._path.parent) if self._path is not None else ""
        return UsageError(
            f"{directory}: holds results of {what}; choose another directory, or give --force"
            " instead of --resume to start again"
        )

    def _read(self) -> None:
        assert self._path is not None
        try:
            data = self._path.read_bytes()
        except OSError as error:
            raise FormatError(f"{shown(self._path)}: cannot be read: {reason(error)}") from error
        whole = data.rfind(b"\n") + 1
        for row in filter(None, map(_parsed, data[:whole].split(b"\n"))):
            if row.get("schema") == _SCHEMA:
                self.setting = Setting(*(row[key] for key in Setting._fields))
            elif "log_likelihoods" in row:
                values = tuple(map(float, row["log_likelihoods"]))
                self.of(row["task"], row["candidate"])[int(row["question"])] = values
        if self.setting is None and not _BEGINNING.startswith(data[: len(_BEGINNING)]):
            raise UsageError(
                f"{shown(self._path)}: was not written by an evaluation; give --force instead of"
                " --resume to start again"
            )
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
            self._fd = system_calls.open_file(self._path, os.O_WRONLY | os.O_APPEND | flags)
        except OSError as error:
            raise self._failed(error) from error

    def _append(self, row: Mapping[str, Any]) -> None:
        self._write(json.dumps(row).encode() + b"\n")

    def _write(self, data: bytes) -> None:
        if self._path is None:
            return
        try:
            system_calls.append(self._fd, data)
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> FormatError:
        return FormatError(f"{shown(self._path or '')}: cannot be written: {reason(error)}")


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def digest_of(files: Sequence[Path]) -> str:
    """Return a hash of the content of files.

    Raises:
        FormatError: One cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    for path in files:
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        try:
            with path.open("rb") as file:
                while piece := file.read(_PIECE):
                    digest.update(piece)
        except OSError as error:
            raise FormatError(f"{shown(path)}: cannot be read: {reason(error)}") from error
    return digest.hexdigest()

"""The results of every question, kept while the work goes on, so that a stopped run can go on.

One file of JSON lines in the output directory. Every run begins with a line that tells by hashes
what is asked and who answers; a line for each question and candidate follows. What a later run asks
of the same candidates is not computed again.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from loragraft.errors import FormatError
from loragraft.evaluation.results_file import ResultsFile, ResultsJournal
from loragraft.wording import reason, shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

ITEMS_FILE: Final = "items.jsonl"
_SCHEMA: Final = "loragraft.items/1"
#: Of a file that an evaluation began, however soon a crash ended it.
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


class Journal(ResultsJournal[Setting]):
    """The journal of one run.

    Attributes:
        setting: Of this run; where it goes on with another, computed like that.
        results: Log-likelihoods of the answers by task, candidate and number of the question.
    """

    name = ITEMS_FILE

    def __init__(self, file: ResultsFile) -> None:
        """See `ResultsJournal`."""
        self.results: dict[tuple[str, str], dict[int, tuple[float, ...]]] = {}
        super().__init__(file)

    def _take(self, row: Mapping[str, Any]) -> None:
        if row.get("schema") == _SCHEMA:
            self.setting = Setting(*(row[key] for key in Setting._fields))
        elif "log_likelihoods" in row:
            values = tuple(map(float, row["log_likelihoods"]))
            self.of(row["task"], row["candidate"])[int(row["question"])] = values

    def agree(self, setting: Setting) -> None:
        """Say what this run depends on.

        Raises:
            UsageError: The run that is gone on with had something else by the same name.
        """
        before, file = self.setting, self._file
        if before is not None:
            file.require_same("task", setting.tasks, before.tasks)
            file.require_same("candidate", setting.candidates, before.candidates)
            if setting.dtype != before.dtype:
                raise file.other(f"--dtype {before.dtype}, not {setting.dtype}")
            if setting.questions != before.questions:
                raise file.other(f"another --batch-size than {setting.questions or 'auto'}")
            setting = setting._replace(
                tasks={**before.tasks, **setting.tasks},
                candidates={**before.candidates, **setting.candidates},
                tokens=before.tokens,
            )
        self.setting = setting
        file.append([{"schema": _SCHEMA, **setting._asdict()}])

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
        self._file.append(
            {
                "task": task,
                "candidate": candidate,
                "question": number,
                "id": ids[number],
                "log_likelihoods": values,
            }
            for number, values in found.items()
        )

    def of(self, task: str, candidate: str) -> dict[int, tuple[float, ...]]:
        """Return what is known of a candidate and a task, by number of the question."""
        return self.results.setdefault((task, candidate), {})

    @property
    def known(self) -> int:
        """Questions answered, by all candidates together."""
        return sum(map(len, self.results.values()))

    def close(self) -> None:
        """Close the file, which stays if it has results."""
        self._file.close(keep=bool(self.known))


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

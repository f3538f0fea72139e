"""Which questions are asked: tasks known by name, and files of questions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from loragraft.errors import FormatError, UsageError
from loragraft.evaluation.questions import read_questions
from loragraft.wording import listed, quoted, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loragraft.evaluation.questions import Question

#: Tasks of lm-evaluation-harness that local files can feed, and the directory that has these.
LOCAL: Final = {"arc_challenge": "ARC-Challenge", "arc_easy": "ARC-Easy"}
#: What questions of any other file are asked like.
_LIKE: Final = "arc_easy"
_SPLIT_FILE: Final = "test.jsonl"
_SAMPLED: Final = "arc_challenge"
_SAMPLE: Final = Path(__file__).parent / "data" / "arc_challenge_sample.jsonl"


class Task(NamedTuple):
    """A set of questions, and how they are asked.

    Attributes:
        name: As it is reported.
        like: The task of lm-evaluation-harness whose prompts it has.
        questions: From a local file; None where the harness fetches its own.
        note: What readers of the results must know; empty for nothing.
    """

    name: str
    like: str
    questions: tuple[Question, ...] | None
    note: str = ""


def known_tasks() -> str:
    """Return in words which tasks need no network."""
    return (
        f"{listed(list(LOCAL))} from --data DIR, which holds {listed(_places())}, and"
        " NAME=FILE.jsonl for other questions of that shape"
    )


def find_tasks(texts: Sequence[str], data: Path | None, limit: int | None) -> tuple[Task, ...]:
    """Return the tasks that were asked for.

    Args:
        texts: Names, or ``NAME=FILE.jsonl``.
        data: Directory with ``ARC-Challenge/test.jsonl`` and ``ARC-Easy/test.jsonl``; None for
            the sample of ARC-Challenge that the package has, and what the harness can fetch.
        limit: Only that many questions of each, the first ones.

    Raises:
        UsageError: A task is named twice, or nothing is asked for.
        FormatError: A file is missing or malformed.
    """
    if not texts:
        raise UsageError(f"--task is missing: known without a network are {known_tasks()}")
    tasks = [_find(text, data) for text in texts]
    names = [task.name for task in tasks]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--task {quoted(name)}: is named twice; keep one of them")
    return tuple(
        task if task.questions is None else task._replace(questions=task.questions[:limit])
        for task in tasks
    )


def _find(text: str, data: Path | None) -> Task:
    name, is_file, path = text.partition("=")
    if is_file:
        if not name or not path:
            raise UsageError(f"--task {quoted(text)}: expected a name, or NAME=FILE.jsonl")
        return Task(name, _LIKE, read_questions(Path(path)))
    if name in LOCAL and data is not None:
        return Task(name, name, read_questions(_file_of(data, name)))
    if name == _SAMPLED:
        questions = read_questions(_SAMPLE)
        note = (
            f"{name} is a sample of {len(questions)} of the 1,172 test questions, which loragraft"
            " brings along (CC BY-SA 4.0); --data DIR asks all of them"
        )
        return Task(name, name, questions, note)
    return Task(name, name, None)


def _file_of(data: Path, name: str) -> Path:
    path = data / LOCAL[name] / _SPLIT_FILE
    if not path.exists():
        raise FormatError(
            f"{shown(path)}: no such file: for --task {name} --data needs a directory that holds"
            f" {LOCAL[name]}/{_SPLIT_FILE}"
        )
    return path


def _places() -> list[str]:
    return [f"{directory}/{_SPLIT_FILE}" for directory in LOCAL.values()]

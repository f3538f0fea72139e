"""Multiple-choice questions from local files of the shape that ARC has.

P. Clark et al., "Think you have Solved Question Answering? Try ARC, the AI2 Reasoning Challenge",
arXiv:1803.05457, 2018.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from loragraft.errors import FormatError
from loragraft.input_file import read_bytes
from loragraft.json_text import parse_object
from loragraft.wording import quoted, shown

if TYPE_CHECKING:
    from pathlib import Path

_MOST_BYTES: Final = 256 << 20
_FEWEST, _MOST = 3, 5
_EXPECTED: Final = (
    'expected {"id": "...", "question": "...", "choices": {"text": ["...", "...", "..."], "label":'
    ' ["A", "B", "C"]}, "answerKey": "B"} on every line'
)


class Question(NamedTuple):
    """A question and the answers that are offered.

    Attributes:
        id: Its name within the file.
        question: Its text.
        answers: Texts of the answers.
        labels: What the answers are called, such as A to D or 1 to 4.
        gold: Number of the right answer.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    labels: tuple[str, ...]
    gold: int

    def row(self) -> dict[str, Any]:
        """Return it as the data set that lm-evaluation-harness knows has it."""
        return {
            "id": self.id,
            "question": self.question,
            "choices": {"text": list(self.answers), "label": list(self.labels)},
            "answerKey": self.labels[self.gold],
        }


def read_questions(path: Path) -> tuple[Question, ...]:
    """Read a file with a question a line, as JSON.

    Raises:
        FormatError: It cannot be read, a line has another shape, an id comes twice, or there is no
            question.
    """
    data = read_bytes(path, _MOST_BYTES)
    found: dict[str, tuple[int, Question]] = {}
    # Not splitlines: JSON strings may hold separators that it takes for ends of lines.
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"{shown(path)}, line {number}"
        question = _question(line, where)
        if question.id in found:
            raise FormatError(
                f"{where}: the id {quoted(question.id)} is also on line {found[question.id][0]}:"
                " expected every question once"
            )
        found[question.id] = number, question
    if not found:
        raise FormatError(f"{shown(path)}: has no question; {_EXPECTED}")
    return tuple(question for _, question in found.values())


def _question(line: bytes, where: str) -> Question:
    try:
        row = parse_object(line, where, strict=False)
    except FormatError as error:
        raise FormatError(f"{error}; {_EXPECTED}") from None
    choices = row.get("choices")
    if not isinstance(choices, dict):
        raise _wrong(where, "choices", choices)
    answers = _texts(choices.get("text"), where, "choices.text")
    labels = _texts(choices.get("label"), where, "choices.label")
    if len(answers) != len(labels):
        raise FormatError(
            f"{where}: got {len(answers)} texts and {len(labels)} labels; {_EXPECTED}"
        )
    if not _FEWEST <= len(answers) <= _MOST:
        raise FormatError(
            f"{where}: got {len(answers)} answers, expected {_FEWEST} to {_MOST} of them"
        )
    if len(set(labels)) < len(labels):
        raise FormatError(f"{where}: the labels {quoted(list(labels))} are not all different")
    key = _text(row.get("answerKey"), where, "answerKey")
    if key not in labels:
        raise FormatError(
            f"{where}: the answerKey {quoted(key)} is none of the labels {quoted(list(labels))}"
        )
    name = _text(row.get("id"), where, "id")
    question = _text(row.get("question"), where, "question")
    return Question(name, question, answers, labels, labels.index(key))


def _texts(values: object, where: str, key: str) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise _wrong(where, key, values)
    return tuple(_text(value, where, key) for value in values)


def _text(value: object, where: str, key: str) -> str:
    """Return a text; a whole number, which some files have for a label, as its digits."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise _wrong(where, key, value)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _wrong(where, key, value) from None
    return value


def _wrong(where: str, key: str, value: object) -> FormatError:
    got = "nothing" if value is None else quoted(value)
    return FormatError(f"{where}: got {got} for {key}; {_EXPECTED}")

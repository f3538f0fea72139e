"""Calibration texts: what both models are run on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from loragraft.errors import FormatError
from loragraft.input_file import read_bytes
from loragraft.json_text import parse_object
from loragraft.wording import quoted, shown

if TYPE_CHECKING:
    from pathlib import Path

_MOST_BYTES: Final = 64 << 20
#: Files with these names have an object a line.
_OBJECTS: Final = frozenset({".jsonl", ".ndjson", ".json"})
#: What the answer to a prompt is called by those who write such files.
_ANSWERS: Final = ("completion", "answer", "response")
_KEYS: Final = ("text", "prompt", *_ANSWERS)
_EXPECTED: Final = (
    'expected {"prompt": "..."}, {"prompt": "...", "completion": "..."} or {"text": "..."}'
)


class Text(NamedTuple):
    """One text.

    Attributes:
        prompt: What comes before the answer; empty where all of the text is wanted.
        answer: What follows; None where the source is to write it.
    """

    prompt: str
    answer: str | None = None

    @property
    def whole(self) -> str:
        """Prompt and answer."""
        return self.prompt + (self.answer or "")


def read_texts(path: Path) -> tuple[Text, ...]:
    """Read a calibration file.

    A file that ends in ``.jsonl`` has an object a line: ``prompt``, with the answer as
    ``completion`` or without it, or ``text``. Any other file has a text a line.

    Raises:
        FormatError: It cannot be read, is malformed, or has no text.
    """
    data = read_bytes(path, _MOST_BYTES)
    try:
        # Not splitlines: JSON strings may hold separators that it takes for ends of lines.
        lines = data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise FormatError(
            f"{shown(path)}: not UTF-8 at byte {error.start}: calibration texts are UTF-8"
        ) from None
    has_objects = path.suffix.lower() in _OBJECTS
    texts = tuple(
        _text(line, f"{shown(path)}, line {number}") if has_objects else Text("", line.rstrip("\r"))
        for number, line in enumerate(lines, start=1)
        if line.strip()
    )
    if not texts:
        raise FormatError(f"{shown(path)}: has no text: {_EXPECTED} a line, or a text a line")
    return texts


def _text(line: str, where: str) -> Text:
    """Read an object.

    Raises:
        FormatError: It is none, or has no text.
    """
    try:
        found = parse_object(line.encode(), where, strict=False)
    except FormatError as error:
        raise FormatError(f"{error}; {_EXPECTED}") from None
    values = {key: _string(found[key], where) for key in _KEYS if found.get(key) is not None}
    if values.get("text", "").strip():
        return Text("", values["text"])
    if not values.get("prompt", "").strip():
        raise FormatError(f"{where}: has neither a prompt nor a text; {_EXPECTED}")
    answers = (values[key] for key in _ANSWERS if key in values)
    return Text(values["prompt"], next(answers, None))


def _string(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise FormatError(f"{where}: got {quoted(value)} for a text; {_EXPECTED}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise FormatError(f"{where}: {quoted(value)} holds half a character; {_EXPECTED}") from None
    return value

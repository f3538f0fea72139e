"""Calibration texts: what both models are run on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from loragraft.errors import FormatError
from loragraft.input_file import read_bytes
from loragraft.wording import quoted, shown

if TYPE_CHECKING:
    from pathlib import Path

_MOST_BYTES: Final = 64 << 20
#: What the answer to a prompt is called by those who write such files.
_ANSWERS: Final = ("completion", "answer", "response")
_EXPECTED: Final = 'expected lines such as {"prompt": "..."}, {"prompt": "...", "completion": "..."}'


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
        lines = data.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise FormatError(
            f"{shown(path)}: byte {error.start} is no UTF-8; calibration texts are UTF-8"
        ) from None
    read = _object if path.suffix == ".jsonl" else _plain
    numbered = enumerate(lines, start=1)
    texts = tuple(
        read(line, f"{shown(path)}, line {number}") for number, line in numbered if line.strip()
    )
    if not texts:
        raise FormatError(f"{shown(path)}: has no text; {_EXPECTED} or a text a line")
    return texts


def _plain(line: str, where: str) -> Text:
    del where
    return Text("", line)


def _object(line: str, where: str) -> Text:
    try:
        found: Any = json.loads(line)
    except ValueError as error:
        raise FormatError(f"{where}: is no JSON ({error}); {_EXPECTED}") from None
    if not isinstance(found, dict):
        raise FormatError(f"{where}: got {quoted(line[:40])}; {_EXPECTED}")
    text, prompt = found.get("text"), found.get("prompt")
    answer = next((found[key] for key in _ANSWERS if found.get(key) is not None), None)
    for value in (text, prompt, answer):
        if value is not None and not isinstance(value, str):
            raise FormatError(f"{where}: got {quoted(str(value)[:40])} for a text; {_EXPECTED}")
    if isinstance(text, str) and text.strip():
        return Text("", text)
    if isinstance(prompt, str) and prompt.strip():
        return Text(prompt, answer)
    raise FormatError(f"{where}: has neither a prompt nor a text; {_EXPECTED}")

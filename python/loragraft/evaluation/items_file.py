"""Results of a candidate as a file: a line that says of what, and one for each question."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from loragraft.atomic_file import write_text_atomic
from loragraft.errors import FormatError
from loragraft.evaluation.items import Items
from loragraft.input_file import read_bytes
from loragraft.json_text import parse_object
from loragraft.wording import counted, quoted, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

SCHEMA: Final = "loragraft.items/1"
_MOST_BYTES: Final = 1 << 30


class _Row(NamedTuple):
    id: str
    gold: int
    log_likelihoods: list[float]
    lengths: list[float]


def write_items(path: Path, items: Items) -> None:
    """Write results as JSON lines, so that they come back bit for bit.

    Raises:
        FormatError: The file cannot be written.
    """
    write_text_atomic(path, "".join(f"{line}\n" for line in item_lines(items)))


def item_lines(items: Items) -> Iterator[str]:
    """Yield the lines of a file of results."""
    head = {"schema": SCHEMA, "task": items.task, "candidate": items.candidate}
    yield json.dumps({**head, "questions": len(items.ids)})
    for place, name in enumerate(items.ids):
        known = ~np.isnan(items.lengths[place])
        yield json.dumps(
            {
                "id": name,
                "gold": int(items.gold[place]),
                "log_likelihoods": items.log_likelihoods[place, known].tolist(),
                "lengths": items.lengths[place, known].tolist(),
            }
        )


def read_items(path: Path) -> Items:
    """Read results that `write_items` wrote.

    Raises:
        FormatError: The file cannot be read or is malformed; the message names the line.
    """
    lines = read_bytes(path, _MOST_BYTES).removesuffix(b"\n").split(b"\n")
    head = parse_object(lines[0], _line(path, 1))
    if head.get("schema") != SCHEMA:
        raise FormatError(
            f"{_line(path, 1)}: got the schema {quoted(head.get('schema'))}, expected"
            f" {quoted(SCHEMA)}: give a file that loragraft evaluate wrote"
        )
    task, candidate = (_text(head, key, _line(path, 1)) for key in ("task", "candidate"))
    rows: dict[str, _Row] = {}
    for number, line in enumerate(lines[1:], start=2):
        row = _row(line, _line(path, number))
        if rows.setdefault(row.id, row) is not row:
            raise FormatError(f"{_line(path, number)}: the question {quoted(row.id)} comes twice")
    if head.get("questions") != len(rows):
        raise FormatError(
            f"{_line(path, len(lines))}: the file ends after {counted(len(rows), 'question')},"
            f" expected {quoted(head.get('questions'))}: copy it again, or evaluate again"
        )
    return _items(task, candidate, list(rows.values()))


def _line(path: Path, number: int) -> str:
    return f"{shown(path)}, line {number}"


def _items(task: str, candidate: str, rows: Sequence[_Row]) -> Items:
    width = max((len(row.lengths) for row in rows), default=0)
    return Items(
        task=task,
        candidate=candidate,
        ids=tuple(row.id for row in rows),
        gold=np.array([row.gold for row in rows], np.intp),
        log_likelihoods=_padded([row.log_likelihoods for row in rows], width),
        lengths=_padded([row.lengths for row in rows], width),
    )


def _padded(rows: Sequence[list[float]], width: int) -> NDArray[np.float64]:
    found = np.full((len(rows), width), np.nan)
    for place, row in enumerate(rows):
        found[place, : len(row)] = row
    return found


def _row(line: bytes, where: str) -> _Row:
    found = parse_object(line, where)
    scores = _numbers(found, "log_likelihoods", where)
    lengths = _numbers(found, "lengths", where)
    if len(scores) != len(lengths) or len(scores) < 2:
        raise FormatError(
            f"{where}: got {len(scores)} log_likelihoods and {len(lengths)} lengths, expected as"
            " many of both, two or more"
        )
    if min(lengths) <= 0.0:
        raise FormatError(f"{where}: got a length of {min(lengths)}, expected more than 0")
    gold = found.get("gold")
    if type(gold) is not int or not 0 <= gold < len(scores):
        raise FormatError(
            f"{where}: got {quoted(gold)} for gold, expected a number from 0 to {len(scores) - 1}"
        )
    return _Row(_text(found, "id", where), gold, scores, lengths)


def _text(found: dict[str, Any], key: str, where: str) -> str:
    value = found.get(key)
    if not isinstance(value, str):
        raise FormatError(f"{where}: got {quoted(value)} for {key}, expected a text")
    return value


def _numbers(found: dict[str, Any], key: str, where: str) -> list[float]:
    values = found.get(key)
    if not isinstance(values, list) or not all(map(_is_number, values)):
        raise FormatError(f"{where}: got {quoted(values)} for {key}, expected a list of numbers")
    return [float(value) for value in values]


def _is_number(value: object) -> bool:
    """Whether a value is a number that a float can hold; 1e999 parses, but is infinite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False

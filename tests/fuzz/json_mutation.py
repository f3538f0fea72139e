"""Changes to JSON that keep it JSON: a parser of other people's files sees more than syntax errors.

Objects are lists of pairs here, so that a key can occur twice.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    #: A place in a tree: the list that holds it, and where; of a pair the value.
    Slot = tuple[list[Any], int]

#: Where programs that read numbers and names go wrong.
VALUES: Final[tuple[Any, ...]] = (
    0, 1, 2, 3, -1, 7, 8, 255, 4096, 2**31, 2**32 - 1, 2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64,
    10**400, 0.0, -0.0, 0.5, 1e308, 1e-320, None, True, False, "", "a", ".", "..", "/", "\0",
    "\x1b[2J", "\ud800", "é", "٣", "1" * 900, "1" * 5000, "x" * 3000, "a.0.b",
    "BF16", "F8_E4M3", "F4", "weight", float("nan"),
)  # fmt: skip


class Pairs(list[tuple[str, Any]]):
    """An object."""


def parse(text: bytes) -> Any:
    """The tree of a text; ValueError where it is none."""
    try:
        return json.loads(text.decode(), object_pairs_hook=Pairs)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def dump(value: Any) -> bytes:
    try:
        return _text(value).encode()
    except RecursionError:
        return b"[" * 3000


def _text(value: Any) -> str:
    if isinstance(value, Pairs):
        return "{" + ",".join(f"{json.dumps(k)}:{_text(v)}" for k, v in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_text, value)) + "]"
    return json.dumps(value)


def slots(tree: Any) -> list[Slot]:
    """Every place of a tree, the root's first."""
    found: list[Slot] = [([tree], 0)]
    for holder, index in found:
        value = _value(holder, index)
        if isinstance(value, list):
            found.extend((value, i) for i in range(len(value)))
    return found


def _value(holder: list[Any], index: int) -> Any:
    return holder[index][1] if isinstance(holder, Pairs) else holder[index]


def _set(holder: list[Any], index: int, value: Any) -> None:
    holder[index] = (holder[index][0], value) if isinstance(holder, Pairs) else value


def mutate(text: bytes, random: Random, words: Sequence[Any] = ()) -> bytes:
    """The text after one to four changes; unchanged where it is no JSON, or nested too deeply."""
    try:
        return dump(_changed(parse(text), random, (*VALUES, *words)))
    except (ValueError, RecursionError):
        return text


def _changed(tree: Any, random: Random, values: Sequence[Any]) -> Any:
    root = [tree]
    for _ in range(random.choice((1, 1, 1, 2, 3, 4))):
        places = slots(root[0])
        holder, index = random.choice(places)
        if random.random() < 0.02:
            holder, index = root, 0
        _change(holder, index, places, random, values)
    return root[0]


def _change(
    holder: list[Any], index: int, places: list[Slot], random: Random, values: Sequence[Any]
) -> None:
    value = _value(holder, index)
    match random.randrange(9):
        case 0 | 1 if isinstance(value, int) and not isinstance(value, bool):
            factor = random.choice((2, 4, 16, 2**32))
            _set(holder, index, random.choice((value + 1, value - 1, -value, value * factor)))
        case 0 | 1 | 2:
            _set(holder, index, random.choice(values))
        case 3 if len(holder) > 0:
            holder.insert(random.randrange(len(holder) + 1), holder[index])
        case 4 if len(holder) > 1:
            del holder[index]
        case 5 if isinstance(holder, Pairs):
            names = [str(v) for v in values if isinstance(v, str)]
            names += [k + random.choice(names) for k, _ in holder]
            holder[index] = (random.choice(names), holder[index][1])
        case 6:
            other, there = random.choice(places)
            # By value: a tree that contains itself could not be written.
            _set(holder, index, parse(dump(_value(other, there))))
        case 7:
            _set(holder, index, random.choice(([value], Pairs([("a", value)]), _deep(random))))
        case _:
            _set(holder, index, random.choice(([], Pairs(), [value, value], str(value)[:99])))


def _deep(random: Random) -> Any:
    """Brackets in brackets, around where Python stops to recurse."""
    value: Any = 0
    for _ in range(random.choice((3, 50, random.randrange(850, 1000)))):
        value = [value]
    return value

"""Regular expressions of strangers, matched in time that grows with the text and no faster.

Python's `re` goes back and tries again, which for ``(a+)+b`` takes twice as long with every further
letter. Here all ways through an expression are followed at once (Thompson, "Regular expression
search algorithm", 1968), and what comes of a set of places and a character is kept. That excludes
what is no regular expression in the strict sense: look-around and references back.
"""

from __future__ import annotations

import re
import warnings
from functools import lru_cache
from re import _constants as sre  # type: ignore[attr-defined]  # no other parser knows all of it
from re import _parser as parser  # type: ignore[attr-defined]
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: Places of the largest expression, with what is repeated written out.
_MOST_PLACES: Final = 5000
#: Sets of places that are remembered.
_KEPT: Final = 2000
_CATEGORIES: Final = {
    sre.CATEGORY_DIGIT: (str.isdecimal, True),
    sre.CATEGORY_NOT_DIGIT: (str.isdecimal, False),
    sre.CATEGORY_SPACE: (str.isspace, True),
    sre.CATEGORY_NOT_SPACE: (str.isspace, False),
    sre.CATEGORY_WORD: (lambda char: char.isalnum() or char == "_", True),
    sre.CATEGORY_NOT_WORD: (lambda char: char.isalnum() or char == "_", False),
}
_BEGINS: Final = (sre.AT_BEGINNING, sre.AT_BEGINNING_STRING)
_ENDS: Final = (sre.AT_END, sre.AT_END_STRING)


class Budget:
    """Steps that matching may take, shared by all expressions of a file."""

    def __init__(self, steps: int = 20_000_000) -> None:
        self._left = steps

    def spend(self, steps: int) -> None:
        """Take steps.

        Raises:
            ValueError: There are not so many left.
        """
        self._left -= steps
        if self._left < 0:
            raise ValueError("matching takes too long")


class _Place(NamedTuple):
    """Where one may be within an expression.

    Attributes:
        test: What the next character must be; None where none is taken.
        after: The places that follow.
        at: ``begin`` or ``end`` of the text, where the following places are only open there.
    """

    test: Any
    after: tuple[int, ...]
    at: str = ""


class Automaton:
    """An expression that is matched from the start of a text, as `re.match` does."""

    def __init__(self, pattern: str, budget: Budget) -> None:
        """Parse an expression.

        Raises:
            ValueError: It is none, uses what is no regular expression, or is too large.
        """
        self._places: list[_Place] = [_Place(None, ())]
        self._budget = budget
        try:
            with warnings.catch_warnings():
                # Of what may mean something else in later versions.
                warnings.simplefilter("ignore")
                tree = parser.parse(pattern)
            if tree.state.flags & ~re.UNICODE.value:
                raise ValueError("flags are not known here")
            self._first = self._sequence(tree, 0)
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"no regular expression: {error}") from None
        self._steps: dict[tuple[frozenset[int], str], frozenset[int]] = {}
        self._start = self._reached((self._first,), at="begin")

    def matches(self, text: str) -> bool:
        """Say whether the text begins with a match.

        Raises:
            ValueError: The budget is spent.
        """
        places = self._start
        for char in text:
            if 0 in places:
                return True
            step = (places, char)
            found = self._steps.get(step)
            if found is None:
                found = self._step(places, char)
                if len(self._steps) >= _KEPT:
                    self._steps.clear()
                self._steps[step] = found
            places = found
            if not places:
                return False
        at = "both" if not text else "end"
        return 0 in places or 0 in self._reached(places, at=at)

    def _step(self, places: frozenset[int], char: str) -> frozenset[int]:
        self._budget.spend(len(places))
        following = {
            number
            for place in places
            if (one := self._places[place]).test is not None and _fits(one.test, char)
            for number in one.after
        }
        return self._reached(following)

    def _reached(self, places: Iterable[int], at: str = "") -> frozenset[int]:
        """Return places, and all that can be reached from them without a character."""
        found: set[int] = set()
        todo = list(places)
        while todo:
            number = todo.pop()
            if number in found:
                continue
            found.add(number)
            place = self._places[number]
            if place.test is None and (not place.at or at in {place.at, "both"}):
                todo += place.after
        self._budget.spend(len(found))
        return frozenset(found)

    def _add(self, test: Any, *after: int, at: str = "") -> int:
        if len(self._places) >= _MOST_PLACES:
            raise ValueError(f"larger than {_MOST_PLACES} places")
        self._places.append(_Place(test, after, at))
        return len(self._places) - 1

    def _sequence(self, items: Iterable[tuple[Any, Any]], after: int) -> int:
        """Add what is matched in turn; return the place that it begins at."""
        for kind, value in reversed(list(items)):
            after = self._item(kind, value, after)
        return after

    def _item(self, kind: Any, value: Any, after: int) -> int:
        if kind in {sre.LITERAL, sre.NOT_LITERAL, sre.ANY, sre.IN}:
            return self._add((kind, tuple(value) if kind is sre.IN else value), after)
        if kind is sre.BRANCH:
            return self._add(None, *(self._sequence(way, after) for way in value[1]))
        if kind is sre.SUBPATTERN and not value[1] and not value[2]:
            return self._sequence(value[3], after)
        if kind in {sre.MAX_REPEAT, sre.MIN_REPEAT}:
            least, most, body = value
            return self._repeat(least, most, body, after)
        if kind is sre.AT and value in (*_BEGINS, *_ENDS):
            return self._add(None, after, at="begin" if value in _BEGINS else "end")
        raise ValueError(f"{str(kind).lower()} is not matched here")

    def _repeat(self, least: int, most: int, body: Any, after: int) -> int:
        if most == sre.MAXREPEAT:
            loop = self._add(None)
            begin = self._sequence(body, loop)
            self._places[loop] = _Place(None, (begin, after))
            after = loop
        else:
            for _ in range(most - least):
                # One of these for each, so that an empty body cannot make them for nothing.
                after = self._add(None, self._sequence(body, after), after)
        for _ in range(least):
            after = self._add(None, self._sequence(body, after))
        return after


@lru_cache(maxsize=1 << 14)
def _fits(test: tuple[Any, Any], char: str) -> bool:
    kind, value = test
    if kind is sre.ANY:
        return char != "\n"
    if kind is sre.LITERAL:
        return bool(ord(char) == value)
    if kind is sre.NOT_LITERAL:
        return bool(ord(char) != value)
    negated = value[0][0] is sre.NEGATE
    return any(_members(value[1:] if negated else value, char)) is not negated


def _members(items: Iterable[tuple[Any, Any]], char: str) -> Iterator[bool]:
    for kind, value in items:
        if kind is sre.LITERAL:
            yield ord(char) == value
        elif kind is sre.RANGE:
            yield value[0] <= ord(char) <= value[1]
        else:
            test, wanted = _CATEGORIES[value]
            yield test(char) is wanted

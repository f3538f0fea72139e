"""Regular expressions out of an adapter's config: those that could run forever are not tried.

Python's matcher goes back and tries again, so that ``(a+)+b`` takes a minute for thirty letters
and years for sixty. How often it can go back follows from the expression: at most
c · binomial(n + d, d) times on a text of n characters, d being how many parts repeat without limit
one after another. Repeats inside of repeats have no such bound and are refused.
"""

from __future__ import annotations

import importlib
import math
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from loragraft.errors import FormatError
from loragraft.wording import quoted

if TYPE_CHECKING:
    from collections.abc import Iterable

#: A few seconds. What PEFT and others write stays below for names of a hundred characters.
_MOST_PATHS: Final = 3e7
#: A repeat that is limited to more than so many counts as one without limit.
_FEW: Final = 16
#: The parser of the standard library, which `re` is made of.
_PARSER: Final = importlib.import_module("re._parser")
_REPEATS: Final = {"MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"}


class _Paths(NamedTuple):
    """How many ways through an expression there are: c · binomial(n + d, d)."""

    c: float
    d: int = 0


_ONE: Final = _Paths(1.0)
_ENDLESS: Final = _Paths(math.inf)


class Pattern(NamedTuple):
    """A regular expression that a config gives, and how long it can take."""

    text: str
    compiled: re.Pattern[str]
    paths: _Paths

    @classmethod
    def parse(cls, text: str, key: str, where: str, frame: str = "{}") -> Pattern:
        """Compile an expression.

        Args:
            text: As the config has it.
            key: What of the config it is, for messages.
            where: The file, for messages.
            frame: What it is put into, in place of ``{}``.

        Raises:
            FormatError: It is no regular expression, or has repeats inside of repeats.
        """
        try:
            whole = frame.replace("{}", text)
            pattern = cls(text, re.compile(whole), _sequence(_PARSER.parse(whole)))
        except (re.error, RecursionError, OverflowError) as error:
            raise FormatError(
                f"{where}: {key} has {quoted(text)}, which is no regular expression: {error}"
            ) from None
        if pattern.paths.c == math.inf:
            raise _too_slow(pattern, key, where)
        return pattern

    def match(self, name: str, key: str, where: str, *, full: bool = False) -> bool:
        """Whether the start of a name, or all of it, fits; FormatError if that takes too long."""
        paths = self.paths
        if paths.c * math.comb(len(name) + paths.d, paths.d) > _MOST_PATHS:
            raise _too_slow(self, key, where)
        return (self.compiled.fullmatch if full else self.compiled.match)(name) is not None


def _too_slow(pattern: Pattern, key: str, where: str) -> FormatError:
    return FormatError(
        f"{where}: {key} has the regular expression {quoted(pattern.text)}, which could take"
        " forever to match: expected one without repeats inside of repeats, and with few of them:"
        " write the names of the modules instead"
    )


def _sequence(items: Iterable[tuple[Any, Any]]) -> _Paths:
    total = _ONE
    for operation, argument in items:
        one = _item(str(operation), argument)
        total = _Paths(total.c * one.c, total.d + one.d)
    return total


def _item(operation: str, argument: Any) -> _Paths:
    match operation:
        case "SUBPATTERN" | "ASSERT" | "ASSERT_NOT":
            return _sequence(argument[-1])
        case "ATOMIC_GROUP":
            return _sequence(argument)
        case "BRANCH":
            return _branch(argument[1])
        case "GROUPREF_EXISTS":
            return _sum(_sequence(part or ()) for part in argument[1:])
        case operation if operation in _REPEATS:
            return _repeat(*argument)
        case _:
            return _ONE


def _sum(parts: Iterable[_Paths]) -> _Paths:
    found = list(parts)
    return _Paths(sum(part.c for part in found), max((part.d for part in found), default=0))


def _branch(alternatives: Iterable[Any]) -> _Paths:
    """Alternatives that begin with different letters exclude each other."""
    by_start: dict[str, list[_Paths]] = {}
    others = []
    for alternative in alternatives:
        paths = _sequence(alternative)
        first, letter = alternative[0] if len(alternative) else ("", 0)
        if str(first) == "LITERAL":
            by_start.setdefault(chr(letter).casefold(), []).append(paths)
        else:
            others.append(paths)
    groups = [_sum(group) for group in by_start.values()]
    most = max((group.c for group in groups), default=0.0)
    return _sum([*others, _Paths(most, max((group.d for group in groups), default=0))])


def _repeat(least: int, most: Any, body: Any) -> _Paths:
    inner = _sequence(body)
    spread = most - least if isinstance(most, int) and most != _PARSER.MAXREPEAT else math.inf
    if any(str(operation).startswith("GROUPREF") for operation, _ in body):
        return _ENDLESS
    if (least, most) == (0, 1):
        return _Paths(1.0 + inner.c, inner.d)
    if inner == _ONE:
        return _Paths(spread + 1.0) if spread <= _FEW else _Paths(1.0, 1)
    # Not worth a formula: nobody writes such names.
    return _ENDLESS

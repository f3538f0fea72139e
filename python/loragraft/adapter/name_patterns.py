"""Tables of a config whose keys are regular expressions: the first that fits a module decides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeVar

from loragraft.adapter.automaton import Automaton, Budget

if TYPE_CHECKING:
    from collections.abc import Iterator

Value = TypeVar("Value")

_SPECIAL: Final = frozenset("\\^$*+?{}[]|()")


class NamePatterns(Generic[Value]):
    r"""Values by pattern, as PEFT reads ``rank_pattern``: ``(.*\.)?(KEY)$`` from the start.

    Nearly all keys are names, or ends of names, and are looked up; a dot in them stands for any
    character still.
    """

    def __init__(self, budget: Budget) -> None:
        """Begin an empty table.

        Args:
            budget: Of all tables that belong together.
        """
        self._budget = budget
        self._count = 0
        self._exact: dict[str, tuple[int, Value]] = {}
        #: Names with dots: by length, then by the number of dots.
        self._dotted: dict[int, dict[int, list[tuple[int, str, Value]]]] = {}
        self._others: list[tuple[int, Automaton, Value]] = []

    def add(self, key: str, value: Value) -> None:
        """Add a pattern after those that are there.

        Raises:
            ValueError: It is no regular expression, or one that is not matched here.
        """
        order = self._count
        self._count += 1
        if _SPECIAL.isdisjoint(key):
            self._exact.setdefault(key, (order, value))
            if "." in key:
                alike = self._dotted.setdefault(len(key), {})
                alike.setdefault(key.count("."), []).append((order, key, value))
        else:
            automaton = Automaton(rf"(.*\.)?({key})$", self._budget)
            self._others.append((order, automaton, value))

    def find(self, name: str) -> Value | None:
        """Return the value of the first pattern that fits a name, None where none does.

        Raises:
            ValueError: The budget is spent.
        """
        found = list(self._of_names(name))
        first = min((order for order, _ in found), default=self._count)
        for order, automaton, value in self._others:
            if order > first:
                break
            if automaton.matches(name):
                return value
        return next((value for order, value in found if order == first), None)

    def _of_names(self, name: str) -> Iterator[tuple[int, Value]]:
        start = 0
        while True:
            tail = name[start:]
            if tail in self._exact:
                yield self._exact[tail]
            yield from self._with_wild_dots(tail)
            start = name.find(".", start) + 1
            if not start:
                return

    def _with_wild_dots(self, tail: str) -> Iterator[tuple[int, Value]]:
        """Yield names of which a dot stands where the tail has another character."""
        dots = tail.count(".")
        for count, keys in self._dotted.get(len(tail), {}).items():
            if count > dots:
                self._budget.spend(len(keys))
                for order, key, value in keys:
                    if all(one in {".", other} for one, other in zip(key, tail, strict=True)):
                        yield order, value

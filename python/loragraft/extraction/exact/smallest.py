"""The smallest rank of every module whose factors fit, found with few trials.

Ranks are tried where a guess says, and where other modules have found theirs: those of one adapter
mostly share it. What fits at a rank fits at every larger one, so two trials settle a module most
often: its rank fits, and the one below does not.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(slots=True)
class Bracket:
    """What is known of the smallest rank of one module.

    Attributes:
        low: Does not fit; 0 at first, or more where that is known without a trial.
        most: The largest rank that can be tried.
        guess: Where to begin.
        high: The smallest known to fit; None as long as none is.
        steps: How far the next trial lies beyond `low` or below `high`, doubled each time.
    """

    low: int
    most: int
    guess: int
    high: int | None = None
    steps: int = 1
    tried: set[int] = field(default_factory=set)

    @property
    def settled(self) -> bool:
        """Whether no trial is left to make."""
        return self.low >= self.most if self.high is None else self.high - self.low <= 1

    def needs_nothing(self) -> None:
        """Take it that the base alone gives the weights."""
        self.low, self.high = -1, 0

    def at_most(self, most: int) -> None:
        """Try no larger ranks, but the one to begin with."""
        self.most = min(self.most, max(most, self.guess, self.low + 1))

    def next(self, common: int | None) -> int:
        """Return the rank to try next.

        Args:
            common: The rank that other modules have, where there is such a one.
        """
        top = self.most if self.high is None else self.high - 1
        for wanted in (self.guess, common):
            if wanted is not None and self.low < wanted <= top and wanted not in self.tried:
                return wanted
        if self.high is None:
            return min(top, self.low + self.steps)
        return max(self.low + 1, self.high - self.steps)

    def tell(self, rank: int, *, fits: bool) -> None:
        """Take the outcome of a trial."""
        self.tried.add(rank)
        beyond = self.high is None
        if fits:
            self.high = rank
        else:
            self.low = rank
        # Steps grow as long as they lead one way.
        self.steps = 2 * self.steps if fits != beyond and rank != self.guess else 1


class SmallestRanks:
    """The search for all modules, a trial of each at a time."""

    def __init__(self, brackets: Sequence[Bracket]) -> None:
        self._brackets = brackets

    def trials(self) -> Iterator[tuple[int, int]]:
        """Yield (number of the bracket, rank) of what to try next; nothing when all are settled."""
        common = self.common
        for number, bracket in enumerate(self._brackets):
            if not bracket.settled:
                yield number, bracket.next(common)

    @property
    def common(self) -> int | None:
        """The rank that most modules have that are settled, or else are known to fit at."""
        found = Counter(b.high for b in self._brackets if b.high and b.settled)
        found = found or Counter(b.high for b in self._brackets if b.high)
        return max(found, key=lambda rank: (found[rank], -rank)) if found else None

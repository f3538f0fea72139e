"""A race: programs take turns, round after round, so that a disturbance hits them all."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from contenders import LORAGRAFT
from process import ProcessFailedError, last_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from bench import Bench
    from contenders import Contender
    from pairs import Pair
    from process import Usage


@dataclass(slots=True)
class Racer:
    """One program on one pair, and what its rounds gave.

    Attributes:
        name: What to call it.
        go: Runs it once, as a process of its own.
        adapter: Directory that it writes, None for a mere reader.
        most: It sits out later rounds than this.
        usages: Of each round that it took part in.
        digests: Of the tensor files that it wrote.
        why_not: Why it does not run, empty while it does.
    """

    name: str
    go: Callable[[], Usage]
    adapter: Path | None = None
    most: int = sys.maxsize
    usages: list[Usage] = field(default_factory=list)
    digests: set[str] = field(default_factory=set)
    why_not: str = ""

    def play(self) -> Usage | None:
        """Run once more; whoever but loragraft fails is out of the race from then on."""
        if self.why_not or len(self.usages) >= self.most:
            return None
        try:
            usage = self.go()
        except ProcessFailedError as error:
            if self.name.startswith(LORAGRAFT.name):
                raise
            self.why_not = last_line(error)
            return None
        self.usages.append(usage)
        if self.adapter is not None:
            tensors = (self.adapter / "adapter_model.safetensors").read_bytes()
            self.digests.add(hashlib.sha256(tensors).hexdigest())
        return usage


def entrant(
    bench: Bench,
    contender: Contender,
    pair: Pair,
    *options: str,
    name: str = "",
    most: int = sys.maxsize,
) -> Racer:
    """Return a contender on a pair as a racer.

    Args:
        bench: Knows where adapters go.
        contender: The program.
        pair: What it extracts from.
        options: Further arguments.
        name: What to call it, if not by its own name.
        most: Rounds at most.
    """
    adapter = bench.adapter(f"{contender.name} {pair.name}")

    def go() -> Usage:
        return contender.extract(pair, adapter, *options)

    return Racer(name or contender.name, go, adapter, most)


def absentee(name: str, why_not: str) -> Racer:
    """Return somebody who should have taken part."""

    def go() -> Usage:
        raise ProcessFailedError(why_not)

    return Racer(name, go, why_not=why_not)


def race(bench: Bench, title: str, racers: Sequence[Racer]) -> None:
    """Run all rounds."""
    for number in range(bench.rounds):
        for racer in racers:
            if usage := racer.play():
                bench.say(f"{title}: round {number + 1}, {racer.name}: {usage.wall:.2f} s")

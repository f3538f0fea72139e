"""Experts at the size of the real thing: the rate of dense layers, in constant memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import page_cache
from contenders import LORAGRAFT, RANK, THREADS
from fused import fused_pair
from llama import DEEPEST, llama_pair
from markdown import Bar, table
from race import entrant, race
from spread import Spread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench import Bench
    from pairs import Pair
    from process import Usage

_MB: Final = 1e6
_MOST_MEMORY: Final = 600.0
_EVEN: Final = 1.3


@dataclass(frozen=True, slots=True)
class Side:
    """One pair and its rounds.

    Attributes:
        pair: Its name.
        parameters: Weights in it.
        bytes_read: Of both checkpoints.
        usages: Of each round.
    """

    pair: str
    parameters: int
    bytes_read: int
    usages: list[Usage]

    def per_byte(self) -> list[float]:
        """Seconds per byte, of each round."""
        return [usage.wall / self.bytes_read for usage in self.usages]

    @property
    def anonymous(self) -> float:
        """Largest peak of anonymous memory in any round, in MB."""
        return max(usage.anonymous for usage in self.usages) / _MB


@dataclass(frozen=True, slots=True)
class Moe:
    """Fused experts beside dense layers."""

    dense: Side
    experts: Side

    def table(self) -> str:
        """Return both in Markdown."""
        sides = (self.dense, self.experts)
        walls = [Spread.of(usage.wall for usage in side.usages) for side in sides]
        rows = [
            ["GB read", *(f"{side.bytes_read / 1e9:.2f}" for side in sides)],
            ["wall time, s", *(wall.text(2) for wall in walls)],
            [
                "ns per weight",
                *(
                    f"{wall.median / side.parameters * 1e9:.2f}"
                    for wall, side in zip(walls, sides, strict=True)
                ),
            ],
            [
                "GB/s of both files",
                *(
                    f"{side.bytes_read / wall.median / 1e9:.2f}"
                    for wall, side in zip(walls, sides, strict=True)
                ),
            ],
            ["peak anonymous MB", *(f"{side.anonymous:.0f}" for side in sides)],
        ]
        names = [side.pair for side in sides]
        return table([f"loragraft, rank {RANK}, {THREADS} threads", *names], rows)

    def bars(self) -> Iterator[Bar]:
        """Compare with what is required."""
        ratio = Spread.ratio(self.experts.per_byte(), self.dense.per_byte())
        figure = "Time per byte of fused experts, over that of dense layers"
        yield Bar.at_most(figure, ratio.median, _EVEN, ratio.text(2))
        figure = "Peak anonymous memory on fused experts, MB"
        peak = self.experts.anonymous
        yield Bar.at_most(figure, peak, _MOST_MEMORY, f"{peak:.0f}")


def measure_moe(bench: Bench) -> Moe:
    """Extract from both pairs in turn, round after round."""
    bench.say("inputs: dense layers, and two layers of a 35B-A3B model")
    pairs = (llama_pair(bench.pairs, DEEPEST), fused_pair(bench.pairs))
    racers = []
    for pair in pairs:
        page_cache.warm(pair.files)
        racers.append(entrant(bench, LORAGRAFT, pair, name=f"loragraft on {pair.name}"))
    race(bench, "moe", racers)
    dense, experts = (_side(pair, racer.usages) for pair, racer in zip(pairs, racers, strict=True))
    pairs[1].remove()
    return Moe(dense, experts)


def _side(pair: Pair, usages: list[Usage]) -> Side:
    return Side(pair.name, pair.parameters, pair.nbytes, usages)

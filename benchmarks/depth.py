"""Depth: time must grow in proportion to the model, memory not at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import page_cache
from contenders import LORAGRAFT, RANK, THREADS
from line import Line
from llama import DEEPEST, llama_pair
from markdown import Bar, table
from race import entrant, race
from spread import Spread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench import Bench
    from process import Usage

_LAYERS: Final = (1, 2, 4, 8, DEEPEST)
#: Needed here alone; they are copied from the deepest pair in seconds.
_PASSING: Final = (2, 8)
_MB: Final = 1e6
_MOST_MEMORY: Final = 300.0
#: Where a peak falls between two samples, and in what order threads meet, moves it a little;
#: the run on one layer is over after a few samples.
_SAME: Final = 1.10
_FEW: Final = 5e6
_STRAIGHT: Final = 0.10


@dataclass(frozen=True, slots=True)
class Size:
    """One pair of the series.

    Attributes:
        layers: Its depth.
        parameters: Weights in it.
        bytes_read: Of both checkpoints.
        usages: Of each round.
    """

    layers: int
    parameters: int
    bytes_read: int
    usages: list[Usage]

    @property
    def wall(self) -> Spread:
        """Seconds of the whole process."""
        return Spread.of(usage.wall for usage in self.usages)

    @property
    def anonymous(self) -> int:
        """Largest peak of anonymous memory in any round, in bytes."""
        return max(usage.anonymous for usage in self.usages)


@dataclass(frozen=True, slots=True)
class Depth:
    """The series, shallowest first."""

    sizes: list[Size]

    @property
    def line(self) -> Line:
        """Median seconds against bytes."""
        bytes_read = [size.bytes_read for size in self.sizes]
        return Line.through(bytes_read, [size.wall.median for size in self.sizes])

    def table(self) -> str:
        """Return time and memory by depth in Markdown."""
        line = self.line
        head = [f"loragraft, rank {RANK}, {THREADS} threads", "GB read", "wall time, s"]
        head += ["the line's, s", "off by", "ns per weight", "peak anonymous MB"]
        rows = [self._row(size, line) for size in self.sizes]
        rate = 1e-9 / line.slope
        words = f"The line: {line.start:.3f} s to start, then {rate:.2f} GB/s of both files.\n"
        return f"{table(head, rows)}\n{words}"

    def bars(self) -> Iterator[Bar]:
        """Compare with what is required."""
        first = self.sizes[0].wall
        figure = f"Whole process on {self.sizes[0].layers} layer, s"
        yield Bar.at_most(figure, first.median, 0.35, first.text(3), 0.2)
        peaks = [size.anonymous for size in self.sizes]
        figure = f"Peak anonymous memory, MB, {self._depths()} layers"
        measured = ", ".join(f"{peak / _MB:.0f}" for peak in peaks)
        yield Bar.at_most(figure, max(peaks) / _MB, _MOST_MEMORY, measured)
        growth = max(peaks) - peaks[0]
        figure = f"Growth of the peak, {self.sizes[-1].layers} times as deep"
        required = f"none (within {_SAME - 1:.0%} or {_FEW / _MB:.0f} MB)"
        met = growth <= max((_SAME - 1.0) * peaks[0], _FEW)
        yield Bar(figure, required, f"{growth / _MB:.1f} MB", met)
        deviation = self.line.deviation
        figure = f"Linear cost, {self._depths()} layers: worst distance from a line"
        met = deviation <= _STRAIGHT
        yield Bar(figure, f"at most {_STRAIGHT:.0%}", f"{deviation:.1%}", met)

    def _depths(self) -> str:
        return ", ".join(str(size.layers) for size in self.sizes)

    @staticmethod
    def _row(size: Size, line: Line) -> list[str]:
        expected = line.start + line.slope * size.bytes_read
        return [
            f"{size.layers} layer{'s' if size.layers > 1 else ''}",
            f"{size.bytes_read / 1e9:.2f}",
            size.wall.text(2),
            f"{expected:.2f}",
            f"{size.wall.median / expected - 1:+.1%}",
            f"{size.wall.median / size.parameters * 1e9:.2f}",
            f"{size.anonymous / _MB:.0f}",
        ]


def measure_depth(bench: Bench) -> Depth:
    """Run loragraft on pairs of 1 to 16 layers in turn, round after round."""
    words = ", ".join(map(str, _LAYERS))
    bench.say(f"inputs: pairs of {words} layers")
    pairs = [llama_pair(bench.pairs, layers) for layers in sorted(_LAYERS, reverse=True)][::-1]
    racers = []
    for pair in pairs:
        page_cache.warm(pair.files)
        racers.append(entrant(bench, LORAGRAFT, pair, name=f"loragraft on {pair.name}"))
    race(bench, "depth", racers)
    sizes = [
        Size(pair.layers, pair.parameters, pair.nbytes, racer.usages)
        for pair, racer in zip(pairs, racers, strict=True)
    ]
    for pair in pairs:
        if pair.layers in _PASSING:
            pair.remove()
    return Depth(sizes)

"""Shapes: as many weights in ordinary layers, in many small experts, in one huge matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import page_cache
import quality
from contenders import LORAGRAFT, LORAGRAFT_ALONE, RANK, SVD_LOWRANK, THREADS
from experts import expert_pair
from llama import llama_pair
from markdown import Bar, table
from race import entrant, race
from spread import Spread
from wide import wide_pair

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench import Bench
    from pairs import Pair
    from process import Usage

_DENSE_LAYERS: Final = 4
_CONTENDERS: Final = (LORAGRAFT, LORAGRAFT_ALONE, SVD_LOWRANK)
_JUDGED: Final = (LORAGRAFT, SVD_LOWRANK)
_MB: Final = 1e6
_EVEN: Final = 1.3


@dataclass(frozen=True, slots=True)
class Shape:
    """One pair.

    Attributes:
        pair: Its name.
        parameters: Weights in it.
        bytes_read: Of both checkpoints.
        usages: Of each round, by contender.
        energies: Kept of all modules together, by contender.
    """

    pair: str
    parameters: int
    bytes_read: int
    usages: dict[str, list[Usage]]
    energies: dict[str, float]

    def walls(self, contender: str) -> list[float]:
        """Seconds of each round."""
        return [usage.wall for usage in self.usages[contender]]

    def per_weight(self) -> list[float]:
        """Seconds of loragraft per weight, of each round."""
        return [wall / self.parameters for wall in self.walls(LORAGRAFT.name)]

    def per_byte(self) -> list[float]:
        """Seconds of loragraft per byte of both checkpoints, of each round."""
        return [wall / self.bytes_read for wall in self.walls(LORAGRAFT.name)]


@dataclass(frozen=True, slots=True)
class Shapes:
    """The three pairs, each of about a quarter of a thousand million weights."""

    dense: Shape
    experts: Shape
    wide: Shape

    def table(self) -> str:
        """Return the pairs side by side in Markdown."""
        shapes = (self.dense, self.experts, self.wide)
        names = [shape.pair for shape in shapes]
        return table([f"Rank {RANK}", *names], self._rows(shapes))

    def bars(self) -> Iterator[Bar]:
        """Compare with what is required."""
        ratio = Spread.ratio(self.experts.per_byte(), self.dense.per_byte())
        figure = "Time per byte of small experts, over that of dense layers"
        yield Bar.at_most(figure, ratio.median, _EVEN, ratio.text(2))
        alone, both = self.wide.walls(LORAGRAFT_ALONE.name), self.wide.walls(LORAGRAFT.name)
        times = f"{Spread.of(alone).text(2)} and {Spread.of(both).text(2)}"
        speed_up = Spread.ratio(alone, both)
        figure = f"{self.wide.pair}, s with 1 and {THREADS} threads; speed-up"
        yield Bar.told(figure, f"{times}; {speed_up.text(2)}")
        ratio = Spread.ratio(self.wide.per_weight(), self.dense.per_weight())
        yield Bar.told(
            f"{self.wide.pair}, time per weight over that of dense layers", ratio.text(2)
        )

    def _rows(self, shapes: tuple[Shape, ...]) -> Iterator[list[str]]:
        ours, alone, theirs = (contender.name for contender in _CONTENDERS)
        for name in (ours, alone, theirs):
            threads = "" if name == alone else f", {THREADS} threads"
            yield [
                f"{name}{threads}, s",
                *(Spread.of(shape.walls(name)).text(2) for shape in shapes),
            ]
        yield [
            f"loragraft's speed-up by {THREADS} threads",
            *(Spread.ratio(s.walls(alone), s.walls(ours)).text(2) for s in shapes),
        ]
        yield [
            "times faster than svd_lowrank",
            *(Spread.ratio(s.walls(theirs), s.walls(ours)).text(2) for s in shapes),
        ]
        per_weight = [Spread.of(s.walls(ours)).median / s.parameters * 1e9 for s in shapes]
        yield ["loragraft, ns per weight", *(f"{value:.2f}" for value in per_weight)]
        dense = self.dense.per_byte()
        yield [
            "loragraft, time per byte over that of dense layers",
            *(Spread.ratio(shape.per_byte(), dense).text(2) for shape in shapes),
        ]
        others = (max(u.others for each in s.usages.values() for u in each) for s in shapes)
        yield ["CPU time of other processes meanwhile, s, most", *(f"{o:.2f}" for o in others)]
        for contender in _JUDGED:
            peaks = [max(u.anonymous for u in s.usages[contender.name]) for s in shapes]
            name = contender.name
            yield [f"{name}, peak anonymous MB", *(f"{peak / _MB:.0f}" for peak in peaks)]
        for contender in _JUDGED:
            name = contender.name
            yield [f"{name}, energy kept", *(f"{s.energies[name]:.6f}" for s in shapes)]


def measure_shapes(bench: Bench) -> Shapes:
    """Run the contenders on all three pairs in turn, round after round."""
    bench.say("inputs: pairs of four dense layers, of experts, of one large matrix")
    root = bench.pairs
    pairs = (llama_pair(root, _DENSE_LAYERS), expert_pair(root), wide_pair(root))
    racers = {}
    for pair in pairs:
        page_cache.warm(pair.files)
        for contender in _CONTENDERS:
            name = f"{contender.name} on {pair.name}"
            # Every expert a module of its own, as the script has them.
            alone = pair is pairs[1] and contender is not SVD_LOWRANK
            options = ("--moe-layout", "per-expert") if alone else ()
            racers[pair.name, contender.name] = entrant(bench, contender, pair, *options, name=name)
    race(bench, "shapes", list(racers.values()))
    bench.say("shapes: judging the adapters")
    shapes = []
    for pair in pairs:
        usages = {each.name: racers[pair.name, each.name].usages for each in _CONTENDERS}
        shape = Shape(pair.name, pair.parameters, pair.nbytes, usages, _energies(bench, pair))
        shapes.append(shape)
    for pair in pairs[1:]:
        pair.remove()
    return Shapes(*shapes)


def _energies(bench: Bench, pair: Pair) -> dict[str, float]:
    adapters = {each.name: bench.adapter(f"{each.name} {pair.name}") for each in _JUDGED}
    found = quality.measure(pair, adapters)
    return {name: quality.together(each.values()).energy for name, each in found.items()}

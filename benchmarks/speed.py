"""Speed: a whole process over a pair in the page cache, beside the usual script."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import quality
from contenders import LORAGRAFT, RANK, SVD_LOWRANK
from markdown import Bar, table
from pairs import llama_pair
from spread import Spread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pairs import Pair
    from process import Usage
    from quality import Quality

LAYERS: Final = 4
_CONTENDERS: Final = (LORAGRAFT, SVD_LOWRANK)
_TIMES: Final = 3.0
_OPTIMAL: Final = 1.001
_MB: Final = 1e6


@dataclass(frozen=True, slots=True)
class Speed:
    """What the rounds gave, by contender.

    Attributes:
        pair: Name of the pair.
        parameters: Weights that were factored.
        bytes_read: Of both checkpoints.
        usages: Of each round.
        qualities: Of the last round's adapter, by tensor.
        optima: Smallest possible relative error of the first layer's tensors.
        steady: Whether every round gave the same bytes.
    """

    pair: str
    parameters: int
    bytes_read: int
    usages: dict[str, list[Usage]]
    qualities: dict[str, dict[str, Quality]]
    optima: dict[str, float]
    steady: dict[str, bool]

    def table(self) -> str:
        """Return the comparison in Markdown."""
        ours, theirs = self.usages.values()
        bests = [min(usage.wall for usage in usages) for usages in (ours, theirs)]
        rows = [
            ["Wall time, s", *self._spreads("wall"), self.ratio("wall").text(2)],
            [
                "Wall time of the best round, s",
                *(f"{best:.2f}" for best in bests),
                f"{bests[1] / bests[0]:.2f}",
            ],
            ["User and system time, s", *self._spreads("cpu"), self.ratio("cpu").text(2)],
            ["CPU time of other processes meanwhile, s", *self._spreads("others"), ""],
            *self._memory_rows(ours, theirs),
            *self._quality_rows(),
            [
                "Same bytes in every round",
                *("yes" if s else "no" for s in self.steady.values()),
                "",
            ],
        ]
        return table([f"{self.pair}, rank {RANK}", *self.usages, "ratio"], rows)

    def bars(self) -> Iterator[Bar]:
        """Compare with what is required."""
        ratio = self.ratio("wall")
        yield Bar(
            "Times faster than svd_lowrank", f"{_TIMES:.0f}", ratio.text(2), ratio.median >= _TIMES
        )
        ours, theirs = (
            quality.together(found.values()).energy for found in self.qualities.values()
        )
        yield Bar("Energy kept", f"svd_lowrank's {theirs:.6f}", f"{ours:.6f}", ours >= theirs)
        worst = max(self.excess(LORAGRAFT.name).values())
        yield Bar(
            f"Error / optimum on {self.pair}", f"{_OPTIMAL}", f"{worst:.6f}", worst <= _OPTIMAL
        )

    def ratio(self, figure: str) -> Spread:
        """Return the second contender's figure over the first's, paired by round."""
        ours, theirs = self.usages.values()
        pairs = zip(ours, theirs, strict=True)
        return Spread.of(getattr(b, figure) / getattr(a, figure) for a, b in pairs)

    def excess(self, contender: str) -> dict[str, float]:
        """Return error / optimum by tensor, where the optimum is known."""
        found = self.qualities[contender]
        return {name: found[name].error / best for name, best in self.optima.items()}

    def _spreads(self, figure: str) -> list[str]:
        return [
            Spread.of(getattr(usage, figure) for usage in usages).text(2)
            for usages in self.usages.values()
        ]

    def _memory_rows(self, ours: list[Usage], theirs: list[Usage]) -> Iterator[list[str]]:
        peaks = [max(usage.anonymous for usage in usages) for usages in (ours, theirs)]
        cells = [f"{peak / _MB:.0f}" for peak in peaks]
        yield ["Peak anonymous memory, MB", *cells, f"{peaks[1] / peaks[0]:.2f}"]
        disk = [f"{max(u.disk_read for u in usages) / _MB:.0f}" for usages in (ours, theirs)]
        yield ["Read from disk, MB (0: warm cache)", *disk, ""]

    def _quality_rows(self) -> Iterator[list[str]]:
        whole = [quality.together(found.values()) for found in self.qualities.values()]
        yield ["Energy kept, all modules", *(f"{q.energy:.6f}" for q in whole), ""]
        ours, theirs = self.qualities.values()
        gains = [ours[name].energy - theirs[name].energy for name in ours]
        yield [
            "Least and largest gain of energy in a module",
            f"{min(gains):.1e}, {max(gains):.1e}",
            "",
            "",
        ]
        worst = [max(self.excess(name).values()) for name in self.qualities]
        yield ["Error / optimum, worst of layer 0", *(f"{value:.6f}" for value in worst), ""]


def measure_speed(out: Path, rounds: int, say: Callable[[str], None]) -> Speed:
    """Run the contenders in turn, round after round.

    Args:
        out: Where inputs are kept and adapters go.
        rounds: How often.
        say: Told what is going on.
    """
    say(f"inputs: a pair of {LAYERS} layers")
    pair = llama_pair(out / "pairs", LAYERS)
    adapters = {contender.name: out / "adapters" / contender.name for contender in _CONTENDERS}
    usages: dict[str, list[Usage]] = {name: [] for name in adapters}
    digests: dict[str, set[str]] = {name: set() for name in adapters}
    bytes_read = warm(pair)
    for number in range(rounds):
        for contender in _CONTENDERS:
            usage = contender.extract(pair, adapters[contender.name])
            say(f"speed: round {number + 1}, {contender.name}: {usage.wall:.2f} s")
            usages[contender.name].append(usage)
            tensors = adapters[contender.name] / "adapter_model.safetensors"
            digests[contender.name].add(hashlib.sha256(tensors.read_bytes()).hexdigest())
    say("speed: judging the adapters")
    qualities = quality.measure(pair, adapters)
    first = [name for name in qualities[LORAGRAFT.name] if ".layers.0." in name]
    optima = {name: quality.optimum(pair, name, RANK) for name in first}
    steady = {name: len(seen) == 1 for name, seen in digests.items()}
    return Speed(pair.name, pair.parameters, bytes_read, usages, qualities, optima, steady)


def warm(pair: Pair) -> int:
    """Read a pair once, so that it lies in the page cache; return its size in bytes."""
    total = 0
    for side in (pair.base, pair.tuned):
        with (side / "model.safetensors").open("rb", buffering=0) as file:
            while block := file.read(2**24):
                total += len(block)
    return total

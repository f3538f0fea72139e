"""Memory: it must not grow with the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from contenders import LORAGRAFT, SVD_LOWRANK
from markdown import Bar, table
from pairs import llama_pair
from speed import LAYERS, warm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_CONTENDERS: Final = (LORAGRAFT, SVD_LOWRANK)
_REPEATS: Final = 3
_MB: Final = 1e6
_MOST: Final = 500.0
#: Where a peak falls between two samples, and in what order threads meet, moves it a little.
_SAME: Final = 1.10


@dataclass(frozen=True, slots=True)
class Memory:
    """Peak anonymous memory in bytes, by pair and contender; of several runs the largest."""

    peaks: dict[str, dict[str, int]]

    def table(self) -> str:
        """Return the peaks in Markdown."""
        names = [contender.name for contender in _CONTENDERS]
        rows = [
            [pair, *(f"{peaks[name] / _MB:.0f}" for name in names)]
            for pair, peaks in self.peaks.items()
        ]
        return table(["Peak anonymous memory, MB", *names], rows)

    def bars(self) -> Iterator[Bar]:
        """Compare with what is required."""
        small, large = (peaks[LORAGRAFT.name] for peaks in self.peaks.values())
        measured = f"{small / _MB:.0f} and {large / _MB:.0f}"
        most = max(small, large)
        yield Bar(
            "Peak anonymous memory, MB", f"at most {_MOST:.0f}", measured, most <= _MOST * _MB
        )
        growth = large / small
        yield Bar(
            "Growth of the peak, twice as deep",
            "none (within 10 %)",
            f"× {growth:.2f}",
            growth <= _SAME,
        )


def measure_memory(out: Path, say: Callable[[str], None]) -> Memory:
    """Run the contenders on a pair and on one twice as deep."""
    peaks: dict[str, dict[str, int]] = {}
    for layers in (LAYERS, 2 * LAYERS):
        say(f"inputs: a pair of {layers} layers")
        pair = llama_pair(out / "pairs", layers)
        warm(pair)
        peaks[pair.name] = {}
        for contender in _CONTENDERS:
            say(f"memory: {contender.name} on {layers} layers")
            repeats = _REPEATS if contender is LORAGRAFT else 1
            output = out / "adapters" / f"memory-{contender.name}"
            runs = [contender.extract(pair, output) for _ in range(repeats)]
            peaks[pair.name][contender.name] = max(run.anonymous for run in runs)
    return Memory(peaks)

"""Speed: whole processes over a pair in the page cache, beside what people use otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import page_cache
import quality
from contenders import LORAGRAFT, LORAGRAFT_AVX2, RANK, SVD_LOWRANK, THREADS
from field import MERGEKIT, field_of
from llama import DEEPEST, llama_pair
from markdown import Bar, table
from race import race
from readers import CAT
from spread import Spread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench import Bench
    from field import Starter
    from pairs import Pair
    from process import Usage
    from quality import Verdict

_OPTIMAL: Final = 1.001
_MB: Final = 1e6


@dataclass(frozen=True, slots=True)
class Entry:
    """One program and what its rounds gave.

    Attributes:
        name: What to call it.
        pair: Name of the pair that it ran on.
        share: Weights of that pair over those of the whole one.
        start: Seconds in which it only starts; measured where the share is not 1.
        usages: Of each round that it took part in.
        steady: Whether every round gave the same bytes; None for a mere reader.
        verdict: On its last adapter; None for a mere reader.
        why_not: Why it did not run, empty if it did.
    """

    name: str
    pair: str
    share: float
    start: float
    usages: list[Usage]
    steady: bool | None
    verdict: Verdict | None
    why_not: str

    @property
    def scaled(self) -> bool:
        """Whether it ran on a part of the whole pair."""
        return self.share != 1.0

    @property
    def seconds(self) -> list[float]:
        """Seconds for the whole pair, of each round.

        What ran on a part of it has few rounds, so only its quickest one counts: the start once,
        and what came after it in proportion.
        """
        walls = [usage.wall for usage in self.usages]
        if not self.scaled:
            return walls
        return [self.start + (min(walls) - self.start) / self.share]

    def over(self, other: Entry) -> Spread:
        """Return its seconds over another's, round by round where it has several."""
        seconds = self.seconds * len(other.usages) if self.scaled else self.seconds
        return Spread.ratio(seconds, other.seconds)

    def verdict_row(self) -> list[str]:
        """Return what came out, as cells of a table."""
        assert self.verdict is not None
        energy = self.verdict.energy
        return [
            self.name,
            "" if energy is None else f"{energy:.6f}",
            f"{self.verdict.first:.6f}",
            f"{self.verdict.excess:.6f}",
            f"{max(usage.anonymous for usage in self.usages) / _MB:.0f}",
            f"{max(usage.disk_read for usage in self.usages) / _MB:.0f}",
            "yes" if self.steady else "no",
        ]


@dataclass(frozen=True, slots=True)
class Speed:
    """What the rounds gave.

    Attributes:
        pair: Name of the whole pair.
        layers: Of it.
        parameters: Weights in it.
        bytes_read: Of both checkpoints.
        entries: By a key that does not change with versions.
    """

    pair: str
    layers: int
    parameters: int
    bytes_read: int
    entries: dict[str, Entry]

    def table(self) -> str:
        """Return the comparison in Markdown."""
        title = f"{self.pair}, rank {RANK}, {THREADS} threads"
        head = [title, "ran on", "wall time, s", f"all {self.layers} layers, s", "ns per weight"]
        head += ["over loragraft's", "CPU time, s", "others' CPU, s"]
        times = table(head, map(self._times, self.entries.values()))
        head = ["What came out", "energy, all modules", "energy, layer 0"]
        head += ["worst error / optimum, layer 0", "peak anonymous MB"]
        head += ["MB from disk", "same bytes every round"]
        found = [entry.verdict_row() for entry in self.entries.values() if entry.verdict]
        return f"{times}\n{table(head, found)}"

    def bars(self) -> Iterator[Bar]:
        """Compare with what is required."""
        yield self._faster("Times faster than svd_lowrank", SVD_LOWRANK.name, 10.0, 15.0)
        yield self._energy_bar()
        yield self._faster(
            "Times faster than mergekit, scaled from one layer", MERGEKIT, 300.0, 500.0
        )
        over = self.entries[LORAGRAFT.name].over(self.entries[CAT])
        figure = "Time over that of cat, warm cache"
        yield Bar.at_most(figure, over.median, 6.0, over.text(2), 3.0)
        figure = "Times faster than svd_lowrank with LORAGRAFT_ISA=avx2"
        yield self._faster(figure, SVD_LOWRANK.name, 4.0, 6.0, LORAGRAFT_AVX2.name)
        excess = self._verdict(LORAGRAFT.name).excess
        figure = "Error / optimum, every module of layer 0"
        yield Bar.at_most(figure, excess, _OPTIMAL, f"{excess:.6f}")

    def _faster(
        self, figure: str, theirs: str, required: float, dream: float, ours: str = LORAGRAFT.name
    ) -> Bar:
        both = self.entries[theirs], self.entries[ours]
        for entry in both:
            if entry.why_not:
                return Bar.not_run(figure, f"at least {required:g}", entry.why_not)
        ratio = both[0].over(both[1])
        return Bar.at_least(figure, ratio.median, required, ratio.text(1), dream)

    def _energy_bar(self) -> Bar:
        ours, theirs = (self._verdict(each.name).energy for each in (LORAGRAFT, SVD_LOWRANK))
        assert ours is not None
        assert theirs is not None
        return Bar("Energy kept", f"svd_lowrank's {theirs:.6f}", f"{ours:.6f}", ours >= theirs)

    def _verdict(self, name: str) -> Verdict:
        verdict = self.entries[name].verdict
        assert verdict is not None
        return verdict

    def _times(self, entry: Entry) -> list[str]:
        if not entry.usages:
            return [entry.name, f"not run: {entry.why_not}", *[""] * 6]
        whole = Spread.of(entry.seconds)
        over = entry.over(self.entries[LORAGRAFT.name])
        return [
            entry.name,
            entry.pair,
            Spread.of(usage.wall for usage in entry.usages).text(2),
            f"{whole.text(0)}, scaled" if entry.scaled else whole.text(2),
            f"{whole.median / self.parameters * 1e9:.2f}",
            "" if entry.name == LORAGRAFT.name else over.text(2),
            Spread.of(usage.cpu for usage in entry.usages).text(2),
            Spread.of(usage.others for usage in entry.usages).text(2),
        ]


def measure_speed(bench: Bench) -> Speed:
    """Run everybody in turn, round after round."""
    bench.say(f"inputs: pairs of {DEEPEST} layers and of one")
    whole, one = (llama_pair(bench.pairs, layers) for layers in (DEEPEST, 1))
    starters = field_of(bench, whole, one)
    page_cache.warm(whole.files + one.files)
    race(bench, "speed", [starter.racer for starter in starters])
    bench.say("speed: judging the adapters")
    entries = {starter.key: _entry(starter, whole) for starter in starters}
    return Speed(whole.name, whole.layers, whole.parameters, whole.nbytes, entries)


def _entry(starter: Starter, whole: Pair) -> Entry:
    racer = starter.racer
    verdict = None
    if racer.adapter is not None and racer.usages:
        verdict = quality.judge(whole, racer.adapter, RANK, complete=starter.judged_whole)
    return Entry(
        name=racer.name,
        pair=starter.pair.name,
        share=starter.pair.parameters / whole.parameters,
        start=starter.start,
        usages=racer.usages,
        steady=None if racer.adapter is None else len(racer.digests) == 1,
        verdict=verdict,
        why_not=racer.why_not,
    )

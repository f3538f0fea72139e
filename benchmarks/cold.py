"""Cold: the files come from the disk, for cat and for loragraft in turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import page_cache
from contenders import LORAGRAFT, RANK, THREADS
from llama import DEEPEST, llama_pair
from markdown import Bar, table
from race import Racer, entrant
from readers import CAT, cat
from spread import Spread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench import Bench
    from process import Usage

_ROUNDS: Final = 4
#: So much of the files must come from the disk for a run to count as cold.
_COLD: Final = 0.95
_FIGURE: Final = "Time over that of cat, cold cache"
_REQUIRED: Final = 1.15
_DREAM: Final = 1.05


@dataclass(frozen=True, slots=True)
class Cold:
    """What the rounds gave.

    Attributes:
        pair: Its name.
        bytes_read: Of both checkpoints.
        usages: Of each round, by program.
        resident: Share of the files in the page cache before each of these, by program.
    """

    pair: str
    bytes_read: int
    usages: dict[str, list[Usage]]
    resident: dict[str, list[float]]

    @property
    def is_cold(self) -> bool:
        """Whether every run began without the files and got them from the disk."""
        read = [u.disk_read / self.bytes_read for each in self.usages.values() for u in each]
        left = [share for each in self.resident.values() for share in each]
        return min(read) >= _COLD and max(left) <= 1.0 - _COLD

    def walls(self, name: str) -> list[float]:
        """Seconds of each round."""
        return [usage.wall for usage in self.usages[name]]

    def table(self) -> str:
        """Return the comparison in Markdown."""
        head = [f"{self.pair}, {self.bytes_read / 1e9:.2f} GB, rank {RANK}, {THREADS} threads"]
        return table([*head, *self.usages], self._rows())

    def bars(self) -> Iterator[Bar]:
        """Compare with what is required."""
        if not self.is_cold:
            why = "the page cache kept the files"
            yield Bar.not_run(_FIGURE, f"at most {_REQUIRED:g}", why)
            return
        ratio = self._over_cat()
        yield Bar.at_most(_FIGURE, ratio.median, _REQUIRED, ratio.text(3), _DREAM)

    def _over_cat(self) -> Spread:
        return Spread.ratio(self.walls(LORAGRAFT.name), self.walls(CAT))

    def _rows(self) -> Iterator[list[str]]:
        yield ["Wall time, s", *(Spread.of(self.walls(name)).text(2) for name in self.usages)]
        rates = (Spread.of(self.bytes_read / 1e9 / s for s in self.walls(n)) for n in self.usages)
        yield ["GB/s", *(rate.text(2) for rate in rates)]
        yield ["Over the time of cat", "", self._over_cat().text(3)]
        cpu = (Spread.of(usage.cpu for usage in each) for each in self.usages.values())
        yield ["CPU time, s", *(spread.text(2) for spread in cpu)]
        others = (Spread.of(usage.others for usage in each) for each in self.usages.values())
        yield ["Others' CPU time, s", *(spread.text(2) for spread in others)]
        left = (max(each) for each in self.resident.values())
        yield ["In the page cache before, at most", *(f"{share:.1%}" for share in left)]
        read = (min(usage.disk_read for usage in each) for each in self.usages.values())
        yield ["Read from disk, GB, at least", *(f"{number / 1e9:.2f}" for number in read)]


def measure_cold(bench: Bench) -> Cold:
    """Drop the files from the page cache and run, cat and loragraft in turn.

    One run of cat goes before the first round and does not count: whatever lies between this
    machine and the disk has then seen the files, for both programs alike.
    """
    pair = llama_pair(bench.pairs, DEEPEST)
    page_cache.drop(pair.files)
    cat(pair)
    racers = [Racer(CAT, lambda: cat(pair)), entrant(bench, LORAGRAFT, pair)]
    resident: dict[str, list[float]] = {racer.name: [] for racer in racers}
    for number in range(min(bench.rounds, _ROUNDS)):
        for racer in racers if number % 2 == 0 else racers[::-1]:
            page_cache.drop(pair.files)
            resident[racer.name].append(page_cache.resident(pair.files))
            if usage := racer.play():
                bench.say(f"cold: round {number + 1}, {racer.name}: {usage.wall:.2f} s")
    usages = {racer.name: racer.usages for racer in racers}
    return Cold(pair.name, pair.nbytes, usages, resident)

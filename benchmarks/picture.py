"""The picture beside the report: everybody's time per weight, and the time of mere reading."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from chart import Chart, Mark, Rule
from contenders import LORAGRAFT, RANK, THREADS
from readers import CAT, MAPPED
from spread import Spread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cold import Cold
    from machine import Machine
    from speed import Speed

_BILLION: Final = 1e9


def picture(machine: Machine, speed: Speed, cold: Cold) -> str:
    """Return the SVG document."""
    title = f"Extracting a rank-{RANK} adapter: seconds per thousand million weights"
    subtitle = f"Whole processes, {THREADS} threads, {machine.processor}, {machine.isa}"
    unit = "seconds per 10⁹ weights"
    return Chart(title, subtitle, unit, list(_marks(speed, cold)), _rules(speed, cold)).svg()


def _marks(speed: Speed, cold: Cold) -> Iterator[Mark]:
    scale = _BILLION / speed.parameters
    for name, entry in speed.entries.items():
        if name in {CAT, MAPPED} or not entry.usages:
            continue
        value = Spread.of(seconds * scale for seconds in entry.seconds)
        ours = name.startswith(LORAGRAFT.name)
        note = "scaled from one layer" if entry.scaled else "warm cache"
        yield Mark(entry.name, value, ours, note)
    if cold.is_cold:
        value = Spread.of(seconds * scale for seconds in cold.walls(LORAGRAFT.name))
        yield Mark(LORAGRAFT.name, value, ours=True, note="cold cache")


def _rules(speed: Speed, cold: Cold) -> list[Rule]:
    scale = _BILLION / speed.parameters
    warm = Spread.of(speed.entries[CAT].seconds).median
    rules = [Rule("reading both files, warm cache (cat)", warm * scale)]
    if cold.is_cold:
        seconds = Spread.of(cold.walls(CAT)).median
        rules.append(Rule("reading them from disk (cat)", seconds * scale))
    return rules

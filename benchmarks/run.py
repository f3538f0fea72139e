"""Run the benchmarks and write what they found; ``make bench`` calls this."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

from accuracy import measure_accuracy
from bench import Bench
from ceilings import measure_ceilings
from cold import Cold, measure_cold
from depth import measure_depth
from machine import this_machine
from markdown import Bar, bars_table
from moe import measure_moe
from picture import picture
from shapes import measure_shapes
from speed import Speed, measure_speed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from machine import Machine

SCHEMA: Final = "loragraft.benchmark/2"
_HERE: Final = Path(__file__).parent
_OUT: Final = _HERE / "out"
_PICTURE: Final = "results.svg"


class Result(Protocol):
    """What an experiment gives: a dataclass that can show and judge itself."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def table(self) -> str: ...

    def bars(self) -> Iterable[Bar]: ...


@dataclass(frozen=True, slots=True)
class Experiment:
    """Something to measure.

    Attributes:
        heading: In the report.
        measure: Does it.
    """

    heading: str
    measure: Callable[[Bench], Result]


_EXPERIMENTS: Final = {
    "speed": Experiment("Speed, warm cache", measure_speed),
    "cold": Experiment("Speed, cold cache", measure_cold),
    "depth": Experiment("Depth", measure_depth),
    "shapes": Experiment("Shapes", measure_shapes),
    "ceilings": Experiment("Ceilings of arithmetic", measure_ceilings),
    "accuracy": Experiment("Accuracy", measure_accuracy),
    "moe": Experiment("Mixture of experts", measure_moe),
}
#: Only when asked for: its inputs take 7 GB.
_LARGE: Final = ("moe",)


def main() -> None:
    """Measure, print the report, and write it."""
    arguments = _parse()
    start = time.perf_counter()
    machine = this_machine()
    _OUT.mkdir(exist_ok=True)
    bench = Bench(_OUT, arguments.rounds, _say)
    wanted = [name for name in _EXPERIMENTS if name in arguments.only]
    results = {name: _EXPERIMENTS[name].measure(bench) for name in wanted}
    seconds = time.perf_counter() - start
    complete = set(results) >= set(_EXPERIMENTS) - set(_LARGE)
    drawn = _draw(machine, results, _HERE if complete else _OUT)
    report = _report(machine, results, seconds, drawn)
    print(report)
    _write_json(machine, results, seconds)
    if complete:
        (_HERE / "RESULTS.md").write_text(report)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often to repeat what is timed")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=_EXPERIMENTS,
        default=[name for name in _EXPERIMENTS if name not in _LARGE],
        help="experiments to run; only a run of all of them rewrites RESULTS.md",
    )
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds: expected 1 or more")
    return arguments


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _draw(machine: Machine, results: Mapping[str, Result], directory: Path) -> bool:
    """Draw the picture if there is enough to show; say whether there is."""
    speed, cold = results.get("speed"), results.get("cold")
    if not isinstance(speed, Speed) or not isinstance(cold, Cold):
        return False
    (directory / _PICTURE).write_text(picture(machine, speed, cold))
    return True


def _report(machine: Machine, results: Mapping[str, Result], seconds: float, drawn: bool) -> str:
    bars = [bar for result in results.values() for bar in result.bars()]
    load = os.getloadavg()[0]
    parts = [
        "# Benchmark results\n",
        f"Made by `make bench` in {seconds:.0f} s; load average at the end {load:.2f}, the"
        " benchmark's own processes included. What the figures mean and how to read them is in"
        " [README.md](README.md).\n",
        machine.table(),
        "## Required figures\n",
        bars_table(bars),
    ]
    if drawn:
        parts.append(f"![Seconds per thousand million weights, by program]({_PICTURE})\n")
    for name, result in results.items():
        parts += [f"## {_EXPERIMENTS[name].heading}\n", result.table()]
    return "\n".join(parts)


def _write_json(machine: Machine, results: Mapping[str, Result], seconds: float) -> None:
    found = {name: asdict(result) for name, result in results.items()}
    document = {"schema": SCHEMA, "machine": asdict(machine), "seconds": seconds, **found}
    (_OUT / "results.json").write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()

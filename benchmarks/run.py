"""Run the benchmarks and write what they found; ``make bench`` calls this."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from accuracy import measure_accuracy
from machine import this_machine
from markdown import Bar, bars_table
from memory import measure_memory
from speed import measure_speed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from machine import Machine

SCHEMA: Final = "loragraft.benchmark/1"
_HERE: Final = Path(__file__).parent
_OUT: Final = _HERE / "out"
#: What can be measured, and the heading in the report.
_EXPERIMENTS: Final = {
    "speed": "Speed",
    "memory": "Memory",
    "accuracy": "Accuracy",
}


class Result(Protocol):
    """What an experiment gives: a dataclass that can show and judge itself."""

    __dataclass_fields__: dict[str, Any]

    def table(self) -> str: ...

    def bars(self) -> Iterable[Bar]: ...


def main() -> None:
    """Measure, print the report, and write it."""
    arguments = _parse()
    start = time.perf_counter()
    machine = this_machine()
    _OUT.mkdir(exist_ok=True)
    results = {name: _measure(name, arguments.rounds) for name in arguments.only}
    seconds = time.perf_counter() - start
    report = _report(machine, results, seconds)
    print(report)
    _write_json(machine, results, seconds)
    if set(arguments.only) == set(_EXPERIMENTS):
        (_HERE / "RESULTS.md").write_text(report)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the speed experiment")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=_EXPERIMENTS,
        default=list(_EXPERIMENTS),
        help="experiments to run; only a run of all of them rewrites RESULTS.md",
    )
    return parser.parse_args()


def _measure(name: str, rounds: int) -> Result:
    if name == "speed":
        return measure_speed(_OUT, rounds, _say)
    measures: Mapping[str, Callable[[Path, Callable[[str], None]], Result]] = {
        "memory": measure_memory,
        "accuracy": measure_accuracy,
    }
    return measures[name](_OUT, _say)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _report(machine: Machine, results: Mapping[str, Result], seconds: float) -> str:
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
    for name, result in results.items():
        parts += [f"## {_EXPERIMENTS[name]}\n", result.table()]
    return "\n".join(parts)


def _write_json(machine: Machine, results: Mapping[str, Result], seconds: float) -> None:
    found = {name: asdict(result) for name, result in results.items()}
    document = {"schema": SCHEMA, "machine": asdict(machine), "seconds": seconds, **found}
    (_OUT / "results.json").write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()

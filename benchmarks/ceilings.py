"""Ceilings of arithmetic: how fast this machine multiplies at all."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from contenders import RANK, THREADS
from llama import DEEPEST, llama_pair
from markdown import table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench import Bench
    from markdown import Bar

_PRODUCTS: Final = Path(__file__).parent / "baselines" / "products.py"
_ROUNDS: Final = 3
_COLUMNS: Final = RANK + 8


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Rates of large products.

    Attributes:
        rates: FLOP/s by dtype, the fastest of all rounds.
        parameters: Weights of the large pair.
    """

    rates: dict[str, float]
    parameters: int

    def table(self) -> str:
        """Return the rates in Markdown, and what they would mean for the large pair."""
        head = [f"torch.mm, {THREADS} threads", "GFLOP/s"]
        head.append(f"one product of {DEEPEST} layers with {_COLUMNS} columns, s")
        operations = 2.0 * _COLUMNS * self.parameters
        rows = [
            [name, f"{rate / 1e9:.0f}", f"{operations / rate:.2f}"]
            for name, rate in self.rates.items()
        ]
        return table(head, rows)

    def bars(self) -> Iterator[Bar]:
        """Nothing is required of the machine."""
        return iter(())


def measure_ceilings(bench: Bench) -> Ceilings:
    """Time large products in processes of their own."""
    bench.say("ceilings: products of large matrices")
    command = [sys.executable, str(_PRODUCTS), "--threads", str(THREADS)]
    best: dict[str, float] = {}
    for _ in range(min(bench.rounds, _ROUNDS)):
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rates: dict[str, float] = json.loads(done.stdout)
        best = {name: max(rate, best.get(name, 0.0)) for name, rate in rates.items()}
    return Ceilings(best, llama_pair(bench.pairs, DEEPEST).parameters)

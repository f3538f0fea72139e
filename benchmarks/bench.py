"""One run of the benchmarks: where things go, how often to repeat, whom to tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Bench:
    """What every experiment is given.

    Attributes:
        out: Directory for everything that is made.
        rounds: How often to repeat what is timed.
        say: Told what is going on.
    """

    out: Path
    rounds: int
    say: Callable[[str], None]

    @property
    def pairs(self) -> Path:
        """Where checkpoints are kept."""
        return self.out / "pairs"

    def adapter(self, name: str) -> Path:
        """Where an adapter goes."""
        return self.out / "adapters" / name.replace(",", "").replace(" ", "-")

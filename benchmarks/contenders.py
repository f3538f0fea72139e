"""Who is measured: programs that make a PEFT adapter out of two checkpoints."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import process

if TYPE_CHECKING:
    from pairs import Pair

RANK: Final = 16
THREADS: Final = 2
_THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_BASELINES: Final = Path(__file__).parent / "baselines"


@dataclass(frozen=True, slots=True)
class Contender:
    """A program and how to call it.

    Attributes:
        name: What to call it in a report.
        program: Its command line up to the arguments that all have in common:
            BASE TUNED -o OUT --rank R --threads N.
    """

    name: str
    program: tuple[str, ...]

    def extract(self, pair: Pair, output: Path, *options: str) -> process.Usage:
        """Run it on a pair, as a process of its own, and measure that.

        Args:
            pair: What to extract from.
            output: The adapter's directory; an earlier one is removed first.
            options: Further arguments.
        """
        shutil.rmtree(output, ignore_errors=True)
        output.parent.mkdir(parents=True, exist_ok=True)
        arguments = [str(pair.base), str(pair.tuned), "-o", str(output), "--rank", str(RANK)]
        command = [*self.program, *arguments, "--threads", str(THREADS), *options]
        threads = dict.fromkeys(_THREAD_VARIABLES, str(THREADS))
        return process.run(command, dict(os.environ) | threads)


LORAGRAFT: Final = Contender("loragraft", (sys.executable, "-m", "loragraft", "extract"))
SVD_LOWRANK: Final = Contender("svd_lowrank", (sys.executable, str(_BASELINES / "svd_lowrank.py")))

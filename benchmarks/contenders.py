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
#: Would have every start compile what an ordinary one finds compiled.
_NO_BYTECODE: Final = "PYTHONDONTWRITEBYTECODE"
_STARTS: Final = 2


@dataclass(frozen=True, slots=True)
class Contender:
    """A program and how to call it.

    Attributes:
        name: What to call it in a report.
        program: Its command line up to the arguments that all have in common:
            BASE TUNED -o OUT --rank R --threads N.
        threads: How many it may use.
        environment: Variables that it needs beside those of this process.
    """

    name: str
    program: tuple[str, ...]
    threads: int = THREADS
    environment: tuple[tuple[str, str], ...] = ()

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
        arguments += ["--threads", str(self.threads), *options]
        return process.run([*self.program, *arguments], self._variables())

    def start(self) -> float:
        """Return the seconds that it needs to start and do nothing: those of ``--help``.

        The first of two starts only warms the page cache.
        """
        command = [*self.program, "--help"]
        return min(process.run(command, self._variables()).wall for _ in range(_STARTS))

    def _variables(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name != _NO_BYTECODE}
        return kept | dict.fromkeys(_THREAD_VARIABLES, str(self.threads)) | dict(self.environment)


def script(name: str, file: str, python: str = sys.executable) -> Contender:
    """Return one of the scripts in ``baselines/`` as a contender."""
    return Contender(name, (python, str(_BASELINES / file)))


LORAGRAFT: Final = Contender("loragraft", (sys.executable, "-m", "loragraft", "extract"))
LORAGRAFT_AVX2: Final = Contender(
    "loragraft, avx2", LORAGRAFT.program, environment=(("LORAGRAFT_ISA", "avx2"),)
)
LORAGRAFT_ALONE: Final = Contender("loragraft, 1 thread", LORAGRAFT.program, threads=1)
SVD_LOWRANK: Final = script("torch.svd_lowrank", "svd_lowrank.py")
RANDOMIZED_SVD: Final = script("scikit-learn randomized_svd", "randomized_svd.py")
FULL_SVD: Final = script("torch.linalg.svd", "full_svd.py")

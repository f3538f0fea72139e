"""Programs that read both checkpoints and do nothing else: what any extraction has to pay."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import process
from contenders import THREADS

if TYPE_CHECKING:
    from pairs import Pair

CAT: Final = "cat"
MAPPED: Final = f"mapped NumPy loop, {THREADS} threads"
_MAPPED_LOOP: Final = Path(__file__).parent / "baselines" / "read_mapped.py"


def cat(pair: Pair) -> process.Usage:
    """Measure ``cat FILES > /dev/null`` as a process."""
    files = [str(file) for file in pair.files]
    return process.run(["sh", "-c", 'cat "$@" > /dev/null', "sh", *files], os.environ)


def read_mapped(pair: Pair) -> process.Usage:
    """Measure a NumPy loop over memory maps, with as many threads as the contenders have."""
    files = [str(file) for file in pair.files]
    command = [sys.executable, str(_MAPPED_LOOP), *files, "--threads", str(THREADS)]
    return process.run(command, os.environ)

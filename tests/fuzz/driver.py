"""One target under atheris: ``driver.py NAME CORPUS... [libFuzzer's options]``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from random import Random

import atheris

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "python")]

import target  # noqa: E402

# What runs before the first input, and is not ours, tells the fuzzer nothing.
with atheris.instrument_imports(include=["loragraft"]):
    chosen = target.load(sys.argv[1])


def another(data: bytes, most: int, seed: int) -> bytes:
    """Make an input of another; now and then of any bytes."""
    random = Random(seed)
    if chosen.mutate is None or random.random() < 0.05:
        return bytes(atheris.Mutate(data, most))
    return chosen.mutate(data, random)[:most]


# To merge inputs libFuzzer calls the program again, through a shell.
again = shlex.join([sys.executable, __file__, chosen.name])
atheris.Setup([again, *sys.argv[2:]], chosen.check, custom_mutator=another)
atheris.Fuzz()

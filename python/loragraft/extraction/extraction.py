"""Two checkpoints in, the adapter that turns the first into the second out."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from loragraft.adapter.peft_config import CONFIG_FILE
from loragraft.adapter.whole_plan import SaveWhole
from loragraft.architecture.selection import parse_selection
from loragraft.checkpoint import open_checkpoint
from loragraft.destination import Destination, check_destination, check_space
from loragraft.errors import LoragraftError, StoppedError, UsageError
from loragraft.extraction.options import ExtractOptions
from loragraft.extraction.plan import make_plan
from loragraft.extraction.preflight import check_memory
from loragraft.extraction.ranks import parse_rank, rules
from loragraft.extraction.unfinished import Unfinished, is_unfinished
from loragraft.extraction.work import Work
from loragraft.wording import quoted, shown

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
    before, after = open_checkpoint(base, gguf=True), open_checkpoint(tuned, gguf=True)
    if options.format != "peft":
        from loragraft.extraction.gguf_output import check_gguf  # noqa: PLC0415 -- NumPy

        check_gguf(before)
    return make_plan(before, after, options)


def extract(
    base: str | os.PathLike[str],
    tuned: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    rank: int | str = 16,
    max_rank: int | None = None,
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
    moe_layout: str = "auto",
    save_whole: str = "none",
    exact: bool = False,
    patch: bool = False,
    format: str = "peft",  # noqa: A002 -- the option's name
    force: bool = False,
    resume: bool = False,
    report: bool = True,
    progress: Progress | None = None,
) -> Extraction:
    """Extract the LoRA adapter that turns one checkpoint into another.

    For every chosen linear layer ΔW = W_tuned − W_base, formed in float32 tile by tile, is
    factored by a randomized truncated SVD (Halko, Martinsson, Tropp 2011), ΔW ≈ U S Vᵀ, and
    written as lora_B = U√S, lora_A = √S Vᵀ.

    Args:
        base: The base checkpoint: a directory, one .safetensors file, a Hub id, or a GGUF file in
            F32, F16, BF16 or Q8_0.
        tuned: The checkpoint to imitate, of the same architecture.
        output: Directory for the adapter; None keeps the factors in memory.
        rank: Rank of the adapter, capped where a matrix has no more; several such as ``8,16,32``,
            each written beside the others as ``output-r8`` and so on; or a rule: ``auto``,
            ``energy=0.95``, ``error=0.05``, ``budget=20M`` (docs/ranks.md).
        max_rank: Largest rank that a rule may give; None for 128.
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
        moe_layout: How experts are written: ``peft`` (one parameter for all experts of a block, as
            PEFT 0.19.1 and later load it; ``auto`` is that), ``peft-legacy`` (PEFT up to 0.18) or
            ``per-expert``.
        save_whole: Changed tensors to carry as they are: ``none``, ``norms``, ``embeddings`` or
            ``all`` (docs/whole-tensors.md). Not with factors in memory.
        exact: Look for factors whose merge rounds to TUNED's weights bit for bit: the adapter that
            was merged, where there was one; with ``rank="auto"`` of the smallest rank that has
            any. Modules without are written as they would be otherwise (docs/exact.md).
        patch: Write what the merge still does not give into ``residual.safetensors``, so that
            ``merge(..., patch=True)`` gives TUNED's tensors bit for bit. Needs ``exact``.
        format: ``peft``; ``gguf`` for llama.cpp's ``adapter.gguf`` instead; or ``both``.
        force: Replace an adapter in ``output``.
        resume: Go on with a run that was stopped or killed there; its finished work is kept.
        report: Write ``report.json`` and ``report.html`` too.
        progress: Called with (what, bytes done, bytes in all) from time to time.

    Returns:
        The report and where the adapter lies.

    Raises:
        FormatError: A file cannot be read or written, or is malformed.
        MismatchError: The checkpoints are not of one architecture.
        NothingToAdaptError: They are equal in every chosen layer.
        NonFiniteError: NaN or Inf among the weights.
        StoppedError: Interrupted; ``resume`` continues.
        UsageError: An option that cannot be used, or an ``output`` that exists.
    """
    options = ExtractOptions(
        rank=parse_rank(rank, max_rank),
        rank_text=str(rank),
        selection=parse_selection(target_modules, exclude, layers, experts=experts),
        alpha=alpha,
        dtype=dtype,
        oversampling=oversampling,
        power_iterations=power_iterations,
        seed=seed,
        threads=threads,
        io=io,
        moe_layout=moe_layout,
        save_whole=_save_whole(save_whole),
        exact=exact,
        patch=patch,
        format=format,
    )
    if output is None and patch:
        raise UsageError("patch needs an output: factors alone are kept in memory")
    if output is None and options.save_whole is not SaveWhole.NONE:
        raise UsageError("save_whole needs an output: factors alone are kept in memory")
    if output is None and format != "peft":
        raise UsageError("format needs an output: factors alone are kept in memory")
    plan = plan_extraction(base, tuned, options)
    if output is None:
        from loragraft.extraction.in_memory import run_in_memory  # noqa: PLC0415 -- needs NumPy

        with _stoppable():
            return run_in_memory(plan, progress)
    return run_plan(
        plan, Path(output), force=force, resume=resume, with_report=report, progress=progress
    )


def _save_whole(text: str) -> SaveWhole:
    try:
        return SaveWhole(text)
    except ValueError:
        known = ", ".join(SaveWhole)
        raise UsageError(f"--save-whole {quoted(text)}: expected one of {known}") from None


def run_plan(
    plan: ExtractionPlan,
    output: Path,
    *,
    force: bool = False,
    resume: bool = False,
    with_report: bool = True,
    progress: Progress | None = None,
) -> Extraction:
    """Carry a plan out and write the adapter; see `extract`."""
    started = time.perf_counter()
    outputs = check_outputs(plan, output, force=force, resume=resume)
    first = next(iter(outputs.values()))
    with ExitStack() as stack:
        stack.enter_context(_stoppable())
        destinations = {
            suffix: stack.enter_context(Destination(directory, force or resume))
            for suffix, directory in outputs.items()
        }
        unfinished = stack.enter_context(Unfinished(first, plan, resume=resume))
        work = stack.enter_context(Work(plan, unfinished.done))
        # The kernels are at work by now, and what follows them is loaded meanwhile.
        from loragraft.extraction.completion import complete  # noqa: PLC0415

        return complete(
            plan,
            work,
            destinations,
            unfinished,
            started=started,
            with_report=with_report,
            progress=progress,
        )


def check_outputs(
    plan: ExtractionPlan, output: Path, *, force: bool, resume: bool
) -> dict[str, Path]:
    """Return the directories that a plan writes, by the suffix of their names.

    Raises:
        UsageError: One of them must not be written to.
        FormatError: Disk or memory will not do.
    """
    inputs = [plan.base.directory, plan.tuned.directory]
    outputs = {
        suffix: output.with_name(output.name + suffix) for suffix, _ in rules(plan.options.rank)
    }
    first = next(iter(outputs.values()))
    if is_unfinished(first) and not (force or resume):
        raise UsageError(
            f"{shown(first)}: holds a run that was not finished, or still goes on; --resume"
            " continues it, --force starts again"
        )
    if resume and not force and not is_unfinished(first) and (first / CONFIG_FILE).exists():
        # A run that was killed after its last file may not have come to tidy up.
        with suppress(LoragraftError), Destination(first):
            pass
        raise UsageError(
            f"{shown(first)}: exists and is finished: there is nothing to resume; --force makes it"
            " anew"
        )
    for directory in outputs.values():
        check_destination(directory, inputs, force=force or (resume and is_unfinished(first)))
    check_memory(plan)
    # The factors lie on disk twice while they are put in order.
    check_space(output, plan.largest_spool + plan.largest_results)
    return outputs


@contextmanager
def _stoppable() -> Iterator[None]:
    """Turn Ctrl-C into the package's own error, whatever it interrupts."""
    try:
        yield
    except KeyboardInterrupt:
        raise StoppedError("stopped before it was done; nothing was written, start again") from None

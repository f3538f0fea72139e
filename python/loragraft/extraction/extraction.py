"""Two checkpoints in, the adapter that turns the first into the second out."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loragraft.architecture.selection import parse_selection
from loragraft.checkpoint import open_checkpoint
from loragraft.destination import Destination, check_destination, check_space
from loragraft.errors import NothingToAdaptError, StoppedError
from loragraft.extraction.computation import compute
from loragraft.extraction.factors import Factors, FactorStore, oriented
from loragraft.extraction.options import ExtractOptions
from loragraft.extraction.output import (
    config_of,
    retire,
    tensors_path,
    write_documents,
    write_tensors,
)
from loragraft.extraction.plan import make_plan
from loragraft.extraction.preflight import check_memory, differences
from loragraft.extraction.ranks import parse_rank
from loragraft.extraction.spool import Spool
from loragraft.extraction.summary import make_report
from loragraft.report.model import Outcome
from loragraft.wording import counted, shown

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping

    from loragraft import native
    from loragraft.extraction.findings import Findings
    from loragraft.extraction.plan import ExtractionPlan, ModulePlan
    from loragraft.report.model import Report

    Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Extraction:
    """A finished extraction.

    Attributes:
        report: What was found, per tensor and module.
        output: The adapter's directory, None when nothing was written.
        factors: Factors by module name when nothing was written, else empty.
        config: The adapter's ``adapter_config.json``.
    """

    report: Report
    output: Path | None
    factors: Mapping[str, Factors] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)


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
        with _stoppable():
            return _in_memory(plan, progress)
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
    start = time.perf_counter()
    inputs = [plan.base.directory, plan.tuned.directory]
    check_destination(output, inputs, force=force)
    check_memory(plan)
    differing = differences(plan.base, plan.tuned)
    # The factors lie on disk twice while they are put in order.
    check_space(output, 2 * plan.largest_result)
    with (
        _stoppable(),
        Destination(output, force) as destination,
        Spool(destination.directory) as spool,
    ):
        store = FactorStore(spool)
        findings = compute(plan, store.add, progress)
        if not store.modules:
            raise _nothing(plan, findings)
        # From here on what is in the directory is no longer the adapter that was there.
        retire(destination)
        written = write_tensors(tensors_path(destination), store)
        seconds = time.perf_counter() - start
        report = make_report(
            plan, findings, differences=differing, bytes_written=written, seconds=seconds
        )
        config = config_of(plan, report)
        write_documents(destination, config, report, with_report=with_report)
    return Extraction(report=report, output=output, config=config)


def _in_memory(plan: ExtractionPlan, progress: Progress | None) -> Extraction:
    start = time.perf_counter()
    check_memory(plan)
    differing = differences(plan.base, plan.tuned)
    kept: dict[str, Factors] = {}

    def keep(module: ModulePlan, result: native.ModuleResult) -> None:
        a, b = oriented(module, result)
        kept[module.linear.name] = Factors(a, b, result.dtype, plan.options.scaling * result.rank)

    findings = compute(plan, keep, progress)
    if not kept:
        raise _nothing(plan, findings)
    written = sum(f.lora_A.nbytes + f.lora_B.nbytes for f in kept.values())
    seconds = time.perf_counter() - start
    report = make_report(
        plan, findings, differences=differing, bytes_written=written, seconds=seconds
    )
    order = [module.linear.name for module in plan.modules if module.linear.name in kept]
    return Extraction(
        report=report,
        output=None,
        factors={name: kept[name] for name in order},
        config=config_of(plan, report),
    )


@contextmanager
def _stoppable() -> Iterator[None]:
    """Turn Ctrl-C into the package's own error, whatever it interrupts."""
    try:
        yield
    except KeyboardInterrupt:
        raise StoppedError("stopped before it was done; nothing was written, start again") from None


def _nothing(plan: ExtractionPlan, findings: Findings) -> NothingToAdaptError:
    changed = [
        tensor.name
        for tensor in findings.tensors()
        if tensor.outcome is Outcome.LEFT_OUT and tensor.relative_change != 0.0
    ]
    others = (
        f"; {counted(len(changed), 'other tensor')} did change, such as {changed[0]}, which an"
        " adapter of linear layers cannot carry"
        if changed
        else "; are these the right checkpoints?"
    )
    return NothingToAdaptError(
        f"all {len(plan.modules)} chosen layers are equal in {shown(plan.base.reference)}"
        f" and {shown(plan.tuned.reference)}: there is nothing to adapt{others}"
    )

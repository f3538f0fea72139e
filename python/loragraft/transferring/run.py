"""An adapter of one model in, an adapter for another out."""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from loragraft.destination import Destination, check_destination
from loragraft.documents import retire, write_documents
from loragraft.subspaces.cache import SubspaceCache, cache_directory
from loragraft.tensor_reader import TensorReader
from loragraft.transferring.card import control_card, transfer_card
from loragraft.transferring.controls import controls_of, make_controls, random_alone
from loragraft.transferring.distilling.distill import distill
from loragraft.transferring.methods import AUTO, DISTILL, WHOLE_METHODS
from loragraft.transferring.methods.method import Models
from loragraft.transferring.options import TransferOptions
from loragraft.transferring.output import config_of, write_tensors
from loragraft.transferring.plan import plan_transfer
from loragraft.transferring.report import Fate
from loragraft.transferring.stream.side import Side
from loragraft.transferring.summary import control_report, make_report, nothing_kept
from loragraft.transferring.work import Worker, needs_subspaces

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

    from loragraft.transferring.controls import Control
    from loragraft.transferring.methods.method import Alignment
    from loragraft.transferring.pairing import Pair
    from loragraft.transferring.plan import TransferPlan
    from loragraft.transferring.report import TransferReport
    from loragraft.transferring.work import Made

    #: Told what was done last, bytes done and bytes in all.
    Progress = Callable[[str, int, int], None]


#: Where `auto` copies less than this part of an adapter it distills, if it has texts.
_MOSTLY: Final = 0.5


@dataclass(frozen=True, slots=True)
class Transfer:
    """A finished transfer.

    Attributes:
        report: What was found, per module.
        output: The adapter's directory.
        config: The adapter's ``adapter_config.json``.
        controls: Directories of the controls by name, where they were asked for.
    """

    report: TransferReport
    output: Path
    config: Mapping[str, object]
    controls: Mapping[str, Path] = field(default_factory=dict)


def transfer(
    adapter: str | os.PathLike[str],
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    method: str = "auto",
    calibration: str | os.PathLike[str] | None = None,
    subspace_rank: int | str = 128,
    layer_map: str = "auto",
    min_similarity: float | str | None = None,
    scale: float | str = 1.0,
    target_modules: str = "all-linear",
    exclude: str | None = None,
    layers: str | None = None,
    dtype: str = "auto",
    power_iterations: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    cache: bool = True,
    controls: bool = False,
    force: bool = False,
    report: bool = True,
    progress: Progress | None = None,
) -> Transfer:
    """Make an adapter for one model out of an adapter of another, without training.

    For every module of the target that has a counterpart in the adapter ΔW_t = Σ P ΔW_s Qᵀ, with
    the maps P and Q of the method; nothing larger than the factors is formed (docs/transfer.md).

    Args:
        adapter: Directory of a PEFT LoRA adapter.
        source: The checkpoint that it was made for: a directory, one .safetensors file, a Hub id.
        target: The checkpoint that it is wanted for.
        output: Directory for the result.
        method: ``copy``, ``lora-x``, ``cross-lora``, ``prolora``, ``shared-vocab``,
            ``activations``, ``distill``, or ``auto``, which copies where the shapes are equal and
            the similarity clearly above chance, and distills elsewhere if it has texts.
        calibration: File of texts, for ``activations`` and ``distill``, which run both models.
        subspace_rank: Dimension of the singular subspaces, or ``energy=0.9``.
        layer_map: ``identity``, ``proportional``, ``similarity``, a JSON file
            {"target layer": source layer}, or ``auto``.
        min_similarity: Least excess of the similarity over chance, or ``auto``; None for no filter.
        scale: Factor of every update, or ``match-norm``.
        target_modules: Which modules of the target: as for `extract`.
        exclude: Those to leave out, written the same way.
        layers: Blocks of the target, such as ``0-11,20``.
        dtype: Of the factors: ``auto`` is the source's.
        power_iterations: Passes that sharpen the subspaces; None goes on until their energy
            settles.
        seed: Of the sketches and controls. The same inputs, options and seed give the same bytes.
        threads: None for one per core.
        cache: Keep subspaces for the next run.
        controls: Also write ``output-padded-copy``, ``output-random`` and ``output-shuffled``.
        force: Replace an adapter in ``output``.
        report: Write ``report.json`` and ``report.html`` too.
        progress: Called with (what, bytes done, bytes in all) after every module.

    Raises:
        FormatError: A file cannot be read or written, or is malformed.
        MismatchError: The adapter is none of ``source``, more than plain LoRA, or finds no module.
        NothingToAdaptError: The filters leave nothing.
        NonFiniteError: NaN or Inf among weights or factors.
        MissingDependencyError: A package that runs models is not installed.
        UsageError: An option that cannot be used, or an ``output`` that exists.
    """
    options = TransferOptions.read(
        method=method,
        subspace_rank=subspace_rank,
        layer_map=layer_map,
        min_similarity=min_similarity,
        scale=scale,
        target_modules=target_modules,
        exclude=exclude,
        layers=layers,
        dtype=dtype,
        power_iterations=power_iterations,
        seed=seed,
        threads=threads,
        cache=cache,
        controls=controls,
        calibration=calibration,
    )
    plan = plan_transfer(adapter, source, target, options)
    return run_transfer(plan, Path(output), force=force, with_report=report, progress=progress)


def check_outputs(plan: TransferPlan, output: Path, *, force: bool) -> dict[str, Path]:
    """Return the directories that a plan writes, by control; the transfer's own is ``""``.

    Raises:
        UsageError: One of them must not be written to.
        FormatError: One of them cannot be looked at.
    """
    names = ("", *(controls_of(plan.options.method) if plan.options.controls else ()))
    outputs = {
        name: output.with_name(f"{output.name}-{name}") if name else output for name in names
    }
    inputs = [
        plan.source.adapter.directory,
        plan.source.checkpoint.directory,
        plan.target.directory,
    ]
    for directory in outputs.values():
        check_destination(directory, inputs, force=force)
    return outputs


def run_transfer(
    plan: TransferPlan,
    output: Path,
    *,
    force: bool = False,
    with_report: bool = True,
    progress: Progress | None = None,
) -> Transfer:
    """Carry a plan out and write the adapter; see `transfer`."""
    started = time.perf_counter()
    outputs = check_outputs(plan, output, force=force)
    cache = SubspaceCache(cache_directory() if plan.options.cache else None)
    with TensorReader() as reader, ExitStack() as stack:
        destinations = {
            name: stack.enter_context(Destination(directory, force))
            for name, directory in outputs.items()
        }
        done = _carried_out(plan, reader, cache, progress)
        written = [one.factors for one in done.made if one.factors is not None]
        if any(row.method == DISTILL for one in done.made for row in one.rows):
            plan = plan.unpaired()
        own = destinations[""]
        retire(own)
        nbytes = write_tensors(own, written)
        config = config_of(plan, written)
        report = make_report(
            plan,
            done.made,
            cache,
            done.computed,
            notes=done.notes,
            bytes_written=nbytes,
            seconds=time.perf_counter() - started,
        )
        data = report.to_json() if with_report else None
        write_documents(own, config, data, transfer_card(report, config))
        for control in done.controls:
            _write_control(plan, control, destinations[control.name], report, with_report)
    cache.trim()
    others = {name: directory for name, directory in outputs.items() if name}
    return Transfer(report=report, output=output, config=config, controls=others)


class _Done(NamedTuple):
    """A transfer that is still to be written.

    Attributes:
        made: What became of every module.
        notes: What the method found out about both models.
        controls: Where they were asked for.
        computed: How many subspaces were computed.
    """

    made: tuple[Made, ...]
    notes: tuple[str, ...]
    controls: tuple[Control, ...]
    computed: int


def _carried_out(
    plan: TransferPlan, reader: TensorReader, cache: SubspaceCache, progress: Progress | None
) -> _Done:
    """Transfer every module, and make the controls.

    Raises:
        NothingToAdaptError: No module is kept.
    """
    wants_controls = plan.options.controls
    if not plan.is_paired or _shares_no_shape(plan):
        return _distilled(plan, reader, progress)
    with plan.options.finder(reader, cache) as finder:
        alignment = _alignment(plan, reader)
        if needs_subspaces(alignment, plan.options):
            finder.expect(side.linear for pair in plan.pairs for side in (pair.source, pair.target))
        worker = Worker(reader, finder, plan.options, alignment)
        made = _transferred(plan, worker, progress)
        if all(one.factors is None for one in made):
            raise nothing_kept(plan, made)
        if _is_unlike(plan, made):
            return _distilled(plan, reader, progress, finder.computed)
        controls = make_controls(plan, worker, made) if wants_controls else ()
        notes = alignment.notes if alignment is not None else ()
        return _Done(made, notes, controls, finder.computed)


def _distilled(
    plan: TransferPlan, reader: TensorReader, progress: Progress | None, computed: int = 0
) -> _Done:
    found = distill(plan, reader, progress)
    controls = random_alone(plan, found.made) if plan.options.controls else ()
    return _Done(found.made, found.notes, controls, computed)


def _shares_no_shape(plan: TransferPlan) -> bool:
    """Say whether `auto` has texts, and no weight that could be copied."""
    if plan.options.method != AUTO or plan.options.calibration is None:
        return False
    return all(pair.source.linear.shape != pair.target.linear.shape for pair in plan.pairs)


def _is_unlike(plan: TransferPlan, made: tuple[Made, ...]) -> bool:
    """Say whether `auto` has texts, and found less than half of the adapter worth a copy."""
    if plan.options.method != AUTO or plan.options.calibration is None:
        return False
    rows = [row for one in made for row in one.rows]
    copied = math.fsum(row.share for row in rows if row.outcome is Fate.COPIED)
    return copied < _MOSTLY * math.fsum(row.share for row in rows)


def _alignment(plan: TransferPlan, reader: TensorReader) -> Alignment | None:
    """Return what the method makes of both models as a whole, None where it makes nothing."""
    method = WHOLE_METHODS.get(plan.options.method)
    if method is None:
        return None
    source = plan.source
    threads = plan.options.threads
    models = Models(
        Side(source.checkpoint, source.inventory, reader, threads),
        Side(plan.target, plan.inventory, reader, threads),
        source,
        plan.pairs,
        plan.options,
    )
    return method.prepare(models)


def _transferred(plan: TransferPlan, worker: Worker, progress: Progress | None) -> tuple[Made, ...]:
    total = sum(map(_bytes, plan.pairs))
    done = 0
    made = []
    for pairs in plan.modules:
        pieces = []
        for pair in pairs:
            pieces.append(worker.transfer(pair, plan.share(pair)))
            done += _bytes(pair)
            if progress is not None:
                progress(pair.target.linear.name, done, total)
        made.append(worker.join(pieces))
    return tuple(made)


def _bytes(pair: Pair) -> int:
    return 4 * sum(math.prod(one.linear.shape) for one in (pair.source, pair.target))


def _write_control(
    plan: TransferPlan,
    control: Control,
    destination: Destination,
    report: TransferReport,
    with_report: bool,
) -> None:
    retire(destination)
    write_tensors(destination, control.factors)
    config = config_of(plan, control.factors)
    data = control_report(report, control) if with_report else None
    write_documents(destination, config, data, control_card(report, config, control.what))

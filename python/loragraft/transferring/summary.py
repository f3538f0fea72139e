"""The report and the model card of a transfer."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from loragraft.errors import NothingToAdaptError
from loragraft.report.model import SCHEMA, Outcome, TensorReport
from loragraft.transferring.options import MATCH_NORM
from loragraft.transferring.piece import row_of
from loragraft.transferring.report import Fate, FilterReport, TransferReport, TransferSummary
from loragraft.transferring.verdict import (
    fates,
    modules_in,
    root_sum,
    total_share,
    verdict,
    whole_no_op,
)
from loragraft.transferring.warnings import warnings_of
from loragraft.wording import counted, percent, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from loragraft.subspaces.cache import SubspaceCache
    from loragraft.transferring.controls import Control
    from loragraft.transferring.plan import TransferPlan
    from loragraft.transferring.report import TransferredModule
    from loragraft.transferring.work import Made

_NOT_IN_ADAPTER: Final = "the adapter has nothing for it"


def make_report(
    plan: TransferPlan,
    made: Sequence[Made],
    cache: SubspaceCache,
    computed: int,
    *,
    notes: tuple[str, ...] = (),
    bytes_written: int,
    seconds: float,
) -> TransferReport:
    """Put together what a transfer has to say.

    Args:
        plan: What was to be done.
        made: What became of every module of the plan.
        cache: Where subspaces came from.
        computed: How many were computed.
        notes: What the method found out about both models.
        bytes_written: Size of the tensor file.
        seconds: Wall time.
    """
    rows = (*(row for one in made for row in one.rows), *_rows_left_out(plan))
    kept = [row for row in rows if row.outcome is not Fate.LEFT_OUT]
    share = total_share(row.share for row in kept)
    weights = [row.weight_norm for row in kept if row.weight_norm is not None]
    delta = root_sum([row.delta_norm for row in kept])
    total = root_sum(weights)
    no_op = whole_no_op(kept)
    outcomes = Counter(fates(rows).values())
    summary = TransferSummary(
        verdict=verdict(rows, share, no_op),
        counts={fate.value: outcomes[fate] for fate in Fate},
        layer_map=plan.layer_map,
        norm_share=share,
        retained=_retained(kept),
        effect=delta / total if total > 0.0 else None,
        near_no_op=no_op,
        bytes_written=bytes_written,
        seconds=seconds,
        subspaces_cached=cache.hits,
        subspaces_computed=computed,
        warnings=(*notes, *warnings_of(plan, kept, cache.failure)),
    )
    return TransferReport(
        inputs=inputs_of(plan),
        summary=summary,
        filters=(*plan.filters, *_at_work(rows)),
        layers=plan.layers,
        modules=rows,
        tensors=tuple(_tensors(plan, rows)),
    )


def _retained(kept: Sequence[TransferredModule]) -> float | None:
    source = root_sum([row.source_norm for row in kept])
    own = root_sum([(row.retained or 0.0) * row.source_norm for row in kept])
    return own / source if source > 0.0 else None


def inputs_of(plan: TransferPlan) -> dict[str, Any]:
    """Return what the run was given."""
    options = plan.options
    selection = options.selection
    return {
        "adapter": str(plan.source.adapter.directory),
        "source": plan.source.checkpoint.reference,
        "target": plan.target.reference,
        "method": options.method,
        "subspace_rank": str(options.subspace_rank),
        "calibration": None if options.calibration is None else str(options.calibration),
        "layer_map": options.layer_map,
        "min_similarity": None if options.min_similarity is None else str(options.min_similarity),
        "scale": MATCH_NORM if options.scale is None else options.scale,
        "target_modules": list(selection.target_modules),
        "exclude": list(selection.exclude),
        "layers": None if selection.layers is None else sorted(selection.layers),
        "dtype": options.dtype,
        "power_iterations": options.power_iterations,
        "seed": options.seed,
    }


def nothing_kept(plan: TransferPlan, made: Sequence[Made]) -> NothingToAdaptError:
    """Return the error of a transfer that left every module out, with the commonest reason."""
    rows = [row for one in made for row in one.rows]
    option = Counter(map(_option, rows)).most_common(1)[0][0]
    removed = [row for row in rows if _option(row) == option]
    example, share = removed[0], total_share(row.share for row in removed)
    advice = "lower it, or leave it out" if "similarity" in option else "choose another"
    return NothingToAdaptError(
        f"{shown(plan.target.reference)}: nothing of the adapter is kept: {option} leaves out"
        f" {counted(modules_in(removed), 'module')} with {percent(share)} of its squared norm"
        f" ({example.name}: {example.why}); {advice}"
    )


def _rows_left_out(plan: TransferPlan) -> Iterator[TransferredModule]:
    for one in plan.left_out:
        yield replace(row_of(one.pair, plan.share(one.pair)), why=one.why)


def _option(row: TransferredModule) -> str:
    """Return what removed a module at work."""
    if row.why.startswith("--min-similarity"):
        return row.why.partition(":")[0]
    return f"--method {row.method}"


def _at_work(rows: Iterable[TransferredModule]) -> Iterator[FilterReport]:
    """Tell of what was removed once weights had been read."""
    groups: dict[str, list[TransferredModule]] = {}
    for row in rows:
        if row.outcome is Fate.LEFT_OUT and (row.method or row.why.startswith("--min")):
            groups.setdefault(_option(row), []).append(row)
    for option, found in groups.items():
        share = total_share(row.share for row in found)
        yield FilterReport(option, modules_in(found), share, found[0].why)


def _tensors(plan: TransferPlan, rows: Iterable[TransferredModule]) -> Iterator[TensorReport]:
    """Yield every tensor of the target, with what became of it."""
    by_name: dict[str, list[TransferredModule]] = {}
    for row in rows:
        by_name.setdefault(row.name, []).append(row)
    owners = {name: linear for linear in plan.inventory.linears for name in linear.tensors}
    for name, entry in plan.target.tensors.items():
        linear = owners.get(name)
        own = by_name.get(linear.name, []) if linear is not None else []
        if not own:
            why = plan.inventory.others.get(name, _NOT_IN_ADAPTER)
            outcome = Outcome.UNCHANGED
        elif all(row.outcome is Fate.LEFT_OUT for row in own):
            why, outcome = own[0].why, Outcome.LEFT_OUT
        else:
            why, outcome = "", Outcome.ADAPTED
        yield TensorReport(name, entry.shape, entry.dtype, None, outcome, why)


def control_report(report: TransferReport, control: Control) -> dict[str, Any]:
    """Return the report of a control, which has no figures of its own."""
    return {
        "schema": SCHEMA,
        "command": "transfer",
        "inputs": {**report.inputs, "control": control.name},
        "summary": {"verdict": f"A control: {control.what}. No transfer."},
        "tensors": [],
        "modules": [],
    }

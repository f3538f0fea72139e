"""A transfer as a page of figures."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from loragraft.report.page import Line, Page, Table
from loragraft.transferring.distilling.modules import TRIED, carriers
from loragraft.transferring.report import Fate
from loragraft.transferring.verdict import root_sum
from loragraft.wording import counted, percent, shapes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from loragraft.architecture import LinearModule
    from loragraft.report.page import Part
    from loragraft.transferring.pairing import Pair
    from loragraft.transferring.plan import TransferPlan
    from loragraft.transferring.report import FilterReport, TransferredModule, TransferReport

_NONE: Final = "–"
_COLUMNS: Final = (
    "module",
    "method",
    "count",
    "excess",
    "lowest",
    "norm kept",
    "by chance",
    "effect",
    "seconds",
)


def transfer_page(report: TransferReport) -> Page:
    """Return what a transfer found, by kind of module and method."""
    parts: list[Part] = [figures_table(report)]
    parts += [Line(f"  {removed(one)}") for one in report.filters]
    return Page((*parts, Line(report.summary.verdict, "bold")))


def figures_table(report: TransferReport) -> Table:
    """Return the figures by kind and method; what was left out has rows of its own."""
    groups: dict[tuple[str, str], list[TransferredModule]] = {}
    for row in report.modules:
        method = row.method if row.outcome is not Fate.LEFT_OUT else "left out"
        kind = f"{row.part} in {row.kind}" if row.part else row.kind
        groups.setdefault((kind, method), []).append(row)
    rows = tuple(_cells(kind, method, found) for (kind, method), found in groups.items())
    kept = [row for row in report.modules if row.outcome is not Fate.LEFT_OUT]
    return Table(_COLUMNS, rows, _cells("all kept", "", kept), words=2)


def removed(one: FilterReport) -> str:
    """Return what a filter removed, in words."""
    return (
        f"{one.option} left out {counted(one.modules, 'module')} with {percent(one.share)} of the"
        f" adapter's squared norm: {one.why}"
    )


def _cells(kind: str, method: str, rows: Sequence[TransferredModule]) -> tuple[str, ...]:
    excesses = [row.excess for row in rows if row.excess is not None]
    source = root_sum([row.source_norm for row in rows])
    kept = root_sum([(row.retained or 0.0) * row.source_norm for row in rows])
    weights = root_sum([row.weight_norm or 0.0 for row in rows])
    delta = root_sum([row.delta_norm for row in rows])
    chance = root_sum([(row.chance_retained or 0.0) * row.source_norm for row in rows])
    return (
        kind,
        method or _NONE,
        str(len(rows)),
        _mean(excesses),
        f"{min(excesses):.3f}" if excesses else _NONE,
        percent(kept / source) if source > 0.0 else _NONE,
        percent(chance / source) if source > 0.0 else _NONE,
        f"{delta / weights:.4%}" if weights > 0.0 and delta > 0.0 else _NONE,
        f"{math.fsum(row.seconds for row in rows):.2f}",
    )


def _mean(values: Iterable[float]) -> str:
    found = list(values)
    return f"{math.fsum(found) / len(found):.3f}" if found else _NONE


def plan_page(plan: TransferPlan) -> Page:
    """Return what a plan would do, by kind of module."""
    dry = Line("Nothing was written: this is a dry run.")
    if not plan.is_paired:
        tried = tuple((one.name, shapes([one.shape])) for one in _tried(plan))
        table = Table(("module tried, in this order", "shape in the target"), tried, words=2)
        return Page((table, Line("No modules are paired, and no layers."), dry))
    groups: dict[str, list[Pair]] = {}
    for pair in plan.pairs:
        title, kind = pair.target.title, pair.target.whole.kind
        groups.setdefault(f"{title} in {kind}" if title else kind, []).append(pair)
    rows = tuple(
        (
            kind,
            shapes(sorted({pair.source.linear.shape for pair in pairs})),
            shapes(sorted({pair.target.linear.shape for pair in pairs})),
            str(len(pairs)),
            percent(math.fsum(plan.share(pair) for pair in pairs)),
        )
        for kind, pairs in groups.items()
    )
    columns = ("module", "shape in the source", "in the target", "count", "squared norm")
    lines = [Line(f"  {removed(one)}") for one in plan.filters]
    return Page(
        (
            Table(columns, rows, words=3),
            *lines,
            Line(f"Layers: {plan.layer_map}"),
            dry,
        )
    )


def plan_data(plan: TransferPlan) -> dict[str, Any]:
    """Return a plan as plain data."""
    return {
        "schema": "loragraft.plan/1",
        "command": "transfer",
        "dry_run": True,
        "layer_map": plan.layer_map,
        "layers": {str(target): source for target, source in plan.layers.items()},
        "modules": [
            {
                "name": pair.target.whole.name,
                "part": pair.target.title,
                "shape": pair.target.linear.shape,
                "source": pair.source.part.whole.name,
                "source_part": pair.source.part.title,
                "source_shape": pair.source.linear.shape,
                "divided_by": pair.divided,
                "share": plan.share(pair),
            }
            for pair in plan.pairs
        ],
        "tried": [{"name": one.name, "shape": one.shape} for one in _tried(plan)],
        "filters": [asdict(one) for one in plan.filters],
    }


def _tried(plan: TransferPlan) -> list[LinearModule]:
    """Return the modules that `distill` would try; none where modules are paired."""
    return [] if plan.is_paired else [one.linear for one in carriers(plan)[:TRIED]]

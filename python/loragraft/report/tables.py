"""Reports and inspections as Rich renderables, for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from loragraft.report.inspection import Subject
from loragraft.report.kinds import by_kind, gather, left_out
from loragraft.wording import percent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from loragraft.report.inspection import Inspection
    from loragraft.report.kinds import KindFigures
    from loragraft.report.model import Report

_NONE = "–"


def extraction_table(report: Report) -> RenderableType:
    """Return an extraction's figures by kind of module, and where the tensors went."""
    return _report_group(report)


def verification_table(report: Report) -> RenderableType:
    """Return what an adapter reproduces, by kind of module, and where the tensors went.

    The claims of the adapter's own report are told where there were any.
    """
    claims = report.extra.get("claims")
    return _report_group(report, *([_claims_line(claims)] if claims else []))


def inspection_table(inspection: Inspection) -> RenderableType:
    """Return what a checkpoint or an adapter consists of."""
    adapter = inspection.kind is Subject.ADAPTER
    parts: list[RenderableType] = [_facts(inspection)]
    if inspection.kinds:
        parts.append(_adapter_kinds(inspection) if adapter else _checkpoint_kinds(inspection))
    if inspection.others:
        others = ", ".join(f"{count} {why}" for why, count in inspection.others.items())
        parts.append(Text(f"Other tensors: {others}"))
    parts += [Text(f"! {problem}", style="yellow") for problem in inspection.problems]
    return Group(*parts)


def _report_group(report: Report, *extra: RenderableType) -> Group:
    parts: list[RenderableType] = []
    if report.modules:
        parts.append(_figures_table(report))
    parts += [_outcomes_line(report), *_left_out_lines(report), *extra]
    parts += [Text(f"! {warning}", style="yellow") for warning in report.summary.warnings]
    parts.append(Text(report.summary.verdict, style="bold"))
    return Group(*parts)


def _table(*columns: str, text: int = 1) -> Table:
    """A table whose first ``text`` columns are words and the others numbers."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for position, column in enumerate(columns):
        table.add_column(column, justify="left" if position < text else "right", no_wrap=True)
    return table


def _figures_table(report: Report) -> Table:
    table = _table(
        "module",
        "count",
        "rank",
        "energy",
        "lowest",
        "error",
        "/ optimum",
        "bit-exact",
        "seconds",
    )
    for figures in by_kind(report.modules):
        table.add_row(*_cells(figures))
    table.add_section()
    table.add_row(*_cells(gather("all", report.modules)), style="bold")
    return table


def _cells(figures: KindFigures) -> Iterator[str]:
    yield escape(figures.kind)
    yield str(figures.modules)
    yield _span(*figures.ranks)
    yield percent(figures.energy)
    yield percent(figures.lowest_energy)
    yield f"{figures.error:.3%}"
    yield _NONE if figures.over_optimum is None else f"{figures.over_optimum:.4f}"
    yield _NONE if figures.bit_exact is None else percent(figures.bit_exact)
    yield f"{figures.seconds:.2f}"


def _span(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}–{high}"


def _outcomes_line(report: Report) -> Text:
    counts = report.summary.counts
    parts = [f"{count} {outcome.replace('_', ' ')}" for outcome, count in counts.items() if count]
    return Text(f"Tensors: {sum(counts.values())} in all, {', '.join(parts) or 'none'}")


def _left_out_lines(report: Report) -> Iterator[Text]:
    for figures in left_out(report.tensors):
        change = figures.largest_change
        tail = "" if change is None else f", changed by at most {change:.3%}"
        yield Text(f"  left out: {figures.tensors} × {figures.why}{tail}")


def _claims_line(claims: Any) -> Text:
    return Text(
        f"Claims of report.json: {claims['checked']} modules checked, largest difference in"
        f" relative error {claims['worst_difference']:.2e}"
    )


def _facts(inspection: Inspection) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in _fact_lines(inspection):
        table.add_row(name, escape(value))
    return table


def _fact_lines(inspection: Inspection) -> Iterator[tuple[str, str]]:
    yield inspection.kind.value, inspection.path
    if inspection.model_type or inspection.family:
        model_type = inspection.model_type or "unknown"
        yield "model type", f"{model_type} (names read as {inspection.family})"
    if inspection.architectures:
        yield "class", ", ".join(inspection.architectures)
    if inspection.base_model:
        yield "base model", inspection.base_model
    files = len(inspection.files)
    yield (
        "size",
        f"{inspection.tensors} tensors, {inspection.parameters / 1e6:,.2f} M parameters,"
        f" {inspection.bytes / 1e6:,.1f} MB in {files} file{'' if files == 1 else 's'}",
    )
    yield "layers", str(inspection.layers)
    for count in inspection.dtypes:
        yield "dtype", f"{count.dtype}: {count.tensors} tensors, {count.bytes / 1e6:,.1f} MB"
    if inspection.ranks:
        ranks = ", ".join(f"{rank} (× {count})" for rank, count in inspection.ranks.items())
        yield "rank", ranks


def _checkpoint_kinds(inspection: Inspection) -> Table:
    table = _table("module", "role", "shape (out, in)", "count", "parameters", text=3)
    for kind in inspection.kinds:
        shapes = ", ".join(f"{rows} × {columns}" for rows, columns in kind.shapes[:3])
        more = " …" if len(kind.shapes) > 3 else ""
        table.add_row(
            escape(kind.kind), kind.role, shapes + more, str(kind.modules), f"{kind.parameters:,}"
        )
    return table


def _adapter_kinds(inspection: Inspection) -> Table:
    table = _table("module", "count", "rank", "alpha", "scaling", "norm")
    for kind in inspection.kinds:
        modules = [module for module in inspection.modules if module.kind == kind.kind]
        ranks = [module.rank for module in modules]
        norms = [module.norm for module in modules if module.norm is not None]
        table.add_row(
            escape(kind.kind),
            str(kind.modules),
            _span(min(ranks), max(ranks)),
            _range([module.alpha for module in modules]),
            _range([module.scaling for module in modules]),
            _range(norms),
        )
    return table


def _range(values: list[float]) -> str:
    if not values:
        return _NONE
    low, high = f"{min(values):.4g}", f"{max(values):.4g}"
    return low if low == high else f"{low}–{high}"

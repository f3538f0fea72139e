"""What `inspect` found, as a page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from loragraft.report.inspection import Subject
from loragraft.report.page import Facts, Line, Page, Part, Table
from loragraft.wording import shapes, shown, span

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loragraft.report.inspection import EngineOutlook, Inspection, KindCount

_NONE: Final = "–"


def inspection_table(inspection: Inspection) -> Page:
    """Return what a checkpoint or an adapter consists of."""
    adapter = inspection.kind is Subject.ADAPTER
    # What a file says of itself may hold anything.
    facts = tuple((name, shown(value)) for name, value in _facts(inspection))
    parts: list[Part] = [Facts(facts)]
    if inspection.kinds:
        parts.append(_adapter_kinds(inspection) if adapter else _checkpoint_kinds(inspection))
    if inspection.others:
        others = ", ".join(f"{count} {why}" for why, count in inspection.others.items())
        parts.append(Line(f"Other tensors: {others}"))
    if inspection.outlook is not None:
        parts += list(_outlook(inspection.outlook))
    parts += [Line(f"! {problem}", "yellow") for problem in inspection.problems]
    return Page(tuple(parts))


def _outlook(outlook: EngineOutlook) -> Iterator[Line]:
    verdict, colour = "would not load it", "red"
    if outlook.right:
        verdict, colour = "would load it", "green"
    elif outlook.loads:
        verdict, colour = "would load it, and not do what is meant", "yellow"
    yield Line(f"{outlook.engine} {verdict}", colour)
    for note in outlook.notes:
        yield Line(f"  {outlook.engine} {note}")


def _facts(inspection: Inspection) -> Iterator[tuple[str, str]]:
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
    if inspection.residual_bytes is not None:
        yield "residual", f"{inspection.residual_bytes / 1e6:,.1f} MB, applied by merge --patch"


def _checkpoint_kinds(inspection: Inspection) -> Table:
    columns = ("module", "role", "shape (out, in)", "count", "parameters")
    rows = (
        (kind.kind, kind.role, shapes(kind.shapes), _count(kind), f"{kind.parameters:,}")
        for kind in inspection.kinds
    )
    return Table(columns, tuple(rows), words=3)


def _adapter_kinds(inspection: Inspection) -> Table:
    columns = ("module", "count", "rank", "alpha", "scaling", "norm")
    return Table(columns, tuple(_adapter_cells(inspection, kind) for kind in inspection.kinds))


def _adapter_cells(inspection: Inspection, kind: KindCount) -> tuple[str, ...]:
    modules = [module for module in inspection.modules if module.kind == kind.kind]
    ranks = [module.rank for module in modules]
    return (
        kind.kind,
        _count(kind),
        span(min(ranks), max(ranks)),
        _range([module.alpha for module in modules]),
        _range([module.scaling for module in modules]),
        _range([module.norm for module in modules if module.norm is not None]),
    )


def _count(kind: KindCount) -> str:
    """Return how many modules there are, and of how many experts each."""
    return f"{kind.modules} × {kind.experts}" if kind.experts else str(kind.modules)


def _range(values: list[float]) -> str:
    if not values:
        return _NONE
    low, high = f"{min(values):.4g}", f"{max(values):.4g}"
    return low if low == high else f"{low}–{high}"

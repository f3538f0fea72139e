"""Reports as pages of figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from loragraft.report.curves import recognition_parts
from loragraft.report.kinds import ALL, by_kind, gather, left_out
from loragraft.report.page import Line, Page, Part, Table
from loragraft.report.spectra import spectra_table
from loragraft.wording import percent, span

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loragraft.report.kinds import KindFigures
    from loragraft.report.model import Report

_NONE: Final = "–"
_COLUMNS: Final = (
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


def extraction_table(report: Report) -> Page:
    """Return an extraction's figures by kind of module, and where the tensors went."""
    spectra = spectra_table(report.modules)
    return _page(report, *([spectra] if spectra else []), *recognition_parts(report))


def verification_table(report: Report) -> Page:
    """Return what an adapter reproduces, by kind of module, and where the tensors went.

    The claims of the adapter's own report are told where there were any.
    """
    claims = report.extra.get("claims")
    return _page(report, *([_claims_line(claims)] if claims else []))


def _page(report: Report, *extra: Part) -> Page:
    parts: list[Part] = []
    if report.modules:
        parts.append(_figures(report))
    parts += [_outcomes_line(report), *_left_out_lines(report), *extra]
    parts += [Line(f"! {warning}", "yellow") for warning in report.summary.warnings]
    return Page((*parts, Line(report.summary.verdict, "bold")))


def _figures(report: Report) -> Table:
    rows = tuple(tuple(_cells(figures)) for figures in by_kind(report.modules))
    return Table(_COLUMNS, rows, tuple(_cells(gather(ALL, report.modules))))


def _cells(figures: KindFigures) -> Iterator[str]:
    yield figures.kind
    yield f"{figures.modules} × {figures.experts}" if figures.experts else str(figures.modules)
    yield span(*figures.ranks)
    yield percent(figures.energy)
    yield percent(figures.lowest_energy)
    yield f"{figures.error:.3%}"
    yield _NONE if figures.over_optimum is None else f"{figures.over_optimum:.4f}"
    yield _NONE if figures.bit_exact is None else percent(figures.bit_exact)
    yield f"{figures.seconds:.2f}"


def _outcomes_line(report: Report) -> Line:
    counts = report.summary.counts
    parts = [f"{count} {outcome.replace('_', ' ')}" for outcome, count in counts.items() if count]
    return Line(f"Tensors: {sum(counts.values())} in all, {', '.join(parts) or 'none'}")


def _left_out_lines(report: Report) -> Iterator[Line]:
    for figures in left_out(report.tensors):
        change = figures.largest_change
        tail = "" if change is None else f", changed by at most {change:.3%}"
        yield Line(f"  left out: {figures.tensors} × {figures.why}{tail}")


def _claims_line(claims: Any) -> Line:
    return Line(
        f"Claims of report.json: {claims['checked']} modules checked, largest difference in"
        f" relative error {claims['worst_difference']:.2e}"
    )

"""What is said of a comparison as a whole, and its page of figures."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from loragraft.comparison.grid import grid_of
from loragraft.comparison.heat_map import HeatMap
from loragraft.comparison.measures import BOTH, CHANGE
from loragraft.comparison.report import ComparisonSummary
from loragraft.report.page import Line, Page, Table
from loragraft.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from loragraft.comparison.report import ComparedModule, ComparisonReport
    from loragraft.subspaces.chance import Overlap

_NONE: Final = "–"
_COLUMNS: Final = (
    "module",
    "count",
    "change",
    "cosine",
    "out: similarity",
    "chance",
    "in: similarity",
    "chance",
    "excess",
    "lowest",
    "z",
)


def summarise(
    rows: Sequence[ComparedModule], unpaired: int, cache_failure: str, seconds: float
) -> ComparisonSummary:
    """Sum a comparison up.

    Args:
        rows: All modules, at least one.
        unpaired: Modules of A without a counterpart.
        cache_failure: Why subspaces could not be kept; empty where they could.
        seconds: Wall time.
    """
    known = [row.excess for row in rows if row.excess is not None]
    clear = sum(_is_clear(row) for row in rows)
    excess = math.fsum(known) / len(known) if known else None
    return ComparisonSummary(
        verdict=_verdict(rows, clear, excess),
        modules=len(rows),
        unpaired=unpaired,
        clear=clear,
        excess=excess,
        weight_change=_change(rows),
        seconds=seconds,
        warnings=tuple(_warnings(unpaired, cache_failure)),
    )


def comparison_page(report: ComparisonReport, *, by_layer: bool = False) -> Page:
    """Return the figures by kind of module, or of every module, and maps of all layers."""
    groups: dict[str, list[ComparedModule]] = {}
    for row in report.modules:
        groups.setdefault(_title(row) if by_layer else row.kind, []).append(row)
    rows = tuple(_cells(name, found) for name, found in groups.items())
    table = Table(_COLUMNS, rows, _cells("all", report.modules))
    grid = grid_of(report.modules)
    maps = [part for one in (BOTH, CHANGE) for part in (HeatMap(grid, one), Line(""))]
    return Page((table, *maps, Line(report.summary.verdict, "bold")))


def _title(row: ComparedModule) -> str:
    return row.name if row.layer is None else f"{row.layer} {row.kind}"


def _is_clear(row: ComparedModule) -> bool:
    sides = [side for side in (row.left, row.right) if side.excess is not None]
    return bool(sides) and all(side.is_clear for side in sides)


def _verdict(rows: Sequence[ComparedModule], clear: int, excess: float | None) -> str:
    compared = counted(len(rows), "module")
    if excess is None:
        why = rows[0].left.why or rows[0].right.why
        return f"{compared} compared; the similarity of their subspaces is unknown: {why}"
    words = "clearly related" if clear > len(rows) / 2 else "not clearly related"
    if 0 < clear <= len(rows) / 2:
        words = "related in a part of their modules"
    return (
        f"{words}: {clear} of {compared} have subspaces clearly above chance; the mean excess over"
        f" chance is {excess:.3f}, where 0 is chance and 1 the same subspaces"
    )


def _change(rows: Sequence[ComparedModule]) -> float | None:
    known = [row for row in rows if row.weight_change is not None]
    total = math.fsum(row.weight_norm**2 for row in known)
    if total == 0.0:
        return None
    moved = math.fsum(((row.weight_change or 0.0) * row.weight_norm) ** 2 for row in known)
    return math.sqrt(moved / total)


def _warnings(unpaired: int, cache_failure: str) -> Iterator[str]:
    if unpaired:
        yield f"{counted(unpaired, 'module')} of A have no counterpart in B"
    if cache_failure:
        yield f"subspaces could not be kept for the next run: {cache_failure}"


def _cells(name: str, rows: Sequence[ComparedModule]) -> tuple[str, ...]:
    cosines = [row.weight_cosine for row in rows if row.weight_cosine is not None]
    excesses = [row.excess for row in rows if row.excess is not None]
    change = _change(rows)
    sides = [side for row in rows for side in (row.left, row.right)]
    scores = [side.z for side in sides if side.z is not None]
    return (
        name,
        str(len(rows)),
        _NONE if change is None else f"{change:.3%}",
        _mean(cosines),
        *_overlap([row.left for row in rows]),
        *_overlap([row.right for row in rows]),
        _mean(excesses),
        f"{min(excesses):.3f}" if excesses else _NONE,
        f"{math.fsum(scores) / len(scores):.1f}" if scores else _NONE,
    )


def _overlap(sides: Sequence[Overlap]) -> tuple[str, str]:
    return (
        _mean([side.similarity for side in sides if side.similarity is not None]),
        _mean([side.chance for side in sides if side.chance is not None]),
    )


def _mean(values: Sequence[float]) -> str:
    return f"{math.fsum(values) / len(values):.3f}" if values else _NONE

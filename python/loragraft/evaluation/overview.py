"""An evaluation at a glance: a page of figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from loragraft.report.page import Line, Page, Table
from loragraft.wording import percent

if TYPE_CHECKING:
    from loragraft.evaluation.items import Items
    from loragraft.evaluation.run import EvaluationRun

_COLUMNS: Final = ("task", "candidate", "questions", "acc", "acc_norm", "margin")


def overview_page(run: EvaluationRun) -> Page:
    """Return the means of every candidate on every task."""
    rows = tuple(_cells(items) for found in run.items.values() for items in found.values())
    return Page((Table(_COLUMNS, rows, words=2), *map(Line, run.notes)))


def _cells(items: Items) -> tuple[str, ...]:
    return (
        items.task,
        items.candidate,
        str(len(items.ids)),
        percent(items.acc.mean()),
        percent(items.acc_norm.mean()),
        f"{items.margin.mean():+.3f}",
    )

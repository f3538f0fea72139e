"""A report's warnings, which go to stderr, kept apart from its table, which goes to stdout."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loragraft.report.model import Report


def without_warnings(report: Report) -> Report:
    """Return a report whose table does not repeat the warnings that stderr has told."""
    return replace(report, summary=replace(report.summary, warnings=()))

"""How figures are written on the page: for people as text, for its scripts as few digits."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeAlias

from loragraft.wording import percent

if TYPE_CHECKING:
    from collections.abc import Mapping

#: A row of report.json.
Row: TypeAlias = "Mapping[str, Any]"


class Form(StrEnum):
    """What kind of figure or text something is."""

    NAME = "name"
    TEXT = "text"
    SHARE = "share"
    NUMBER = "number"
    COUNT = "count"


def written(value: float | None, form: Form) -> str:
    """Return a figure as text; a dash for none."""
    if value is None:
        return "–"
    if form is Form.SHARE:
        return percent(value)
    return f"{value:,.0f}" if form is Form.COUNT else f"{value:.4g}"


def brief(value: float | None) -> float | None:
    """Return a figure with the digits that a page needs; thousands of them are embedded in it."""
    return None if value is None else float(f"{value:.5g}")


def shape_of(row: Row, key: str = "shape") -> str:
    """Return a shape as text."""
    return " × ".join(map(str, row.get(key) or ()))


def excess_of(row: Row, side: str) -> float | None:
    """Return the excess of one side's overlap; None where it was not measured or not defined."""
    found: float | None = (row.get(side) or {}).get("excess")
    return found


def plain(value: object) -> str:
    """Return an outcome or a key as words."""
    return str(value).replace("_", " ")

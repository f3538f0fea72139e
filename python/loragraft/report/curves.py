"""Retained energy over the rank, as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loragraft.report.page import Line, Table
from loragraft.wording import percent, size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from loragraft.report.model import Report
    from loragraft.report.page import Part


def recognition_parts(report: Report) -> Iterator[Part]:
    """Yield what backs a report's verdict: the curve of energy over rank, and sentences."""
    found = report.extra.get("recognition")
    if not found:
        return
    if found["curves"]:
        yield curve_table(found["curves"])
    for sentence in found["evidence"]:
        yield Line(f"  {sentence}")


def curve_table(curves: list[Mapping[str, Any]]) -> Table:
    """Return curves as a table of energies, the last of them, of all modules, with its sizes.

    Args:
        curves: At least one, as a report holds them.
    """
    *kinds, whole = curves
    return Table(
        ("energy kept at rank", *map(str, whole["ranks"])),
        (
            *(tuple(_energies(one)) for one in kinds),
            ("size", *map(size, whole["bytes"])),
        ),
        tuple(_energies(whole)),
    )


def _energies(one: Mapping[str, Any]) -> Iterator[str]:
    yield one["kind"]
    for energy in one["energy"]:
        yield percent(energy)

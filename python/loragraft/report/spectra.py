"""Singular values by kind of module, as curves in lines of text."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from loragraft.report.page import Table
from loragraft.report.sparkline import sparkline

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from loragraft.report.model import ModuleReport

_WIDTH: Final = 32
_COLUMNS: Final = ("module", "singular values, on a logarithmic scale", "least / largest")


def spectra_table(modules: Iterable[ModuleReport]) -> Table | None:
    """Return a curve for every kind of module, all on one scale; None where there is none to draw.

    At each place stands the median over the modules of a kind of σᵢ / σ₁.

    Args:
        modules: Those of a report.
    """
    kinds: dict[str, list[Sequence[float]]] = {}
    for module in modules:
        if len(module.singular_values) > 1 and module.singular_values[0] > 0.0:
            kinds.setdefault(module.kind, []).append(module.singular_values)
    curves = {kind: _curve(spectra) for kind, spectra in kinds.items()}
    finite = [value for curve in curves.values() for value in curve if value is not None]
    if not finite:
        return None
    rows = tuple(
        (
            kind,
            sparkline(curve, width=_WIDTH, low=min(finite), high=0.0),
            f"{10.0 ** min(value for value in curve if value is not None):.2g}",
        )
        for kind, curve in curves.items()
    )
    return Table(_COLUMNS, rows, words=2)


def _curve(spectra: Sequence[Sequence[float]]) -> list[float | None]:
    """Return the logarithms of the medians, None where they are zero."""
    longest = max(map(len, spectra))
    medians = (
        _median([one[place] / one[0] for one in spectra if place < len(one)])
        for place in range(longest)
    )
    return [math.log10(value) if value > 0.0 else None for value in medians]


def _median(values: Iterable[float]) -> float:
    # That of the standard library takes longer to load than a small page to lay out.
    ordered = sorted(values)
    middle = len(ordered) // 2
    return 0.5 * (ordered[middle] + ordered[-1 - middle])

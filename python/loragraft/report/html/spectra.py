"""Singular values by kind of module, beside what rounding alone would give."""

from __future__ import annotations

import math
from statistics import median
from typing import TYPE_CHECKING, Final

from loragraft.report.html.charts import Spectrum

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from loragraft.report.html.figures import Row
    from loragraft.report.html.layers import Layers

#: More than this many points of a curve cannot be told apart.
_MOST_VALUES: Final = 256


def spectra_of(layers: Layers) -> Iterator[Spectrum]:
    """Yield the curves of each kind whose modules have singular values.

    Args:
        layers: The modules of an extraction.
    """
    for place, name in enumerate(layers.rows):
        modules = [one for one in layers.kind(place) if _is_drawn(one)]
        if modules:
            yield _spectrum(name, modules)


def _is_drawn(module: Row) -> bool:
    return bool(module.get("singular_values")) and module["delta_norm"] > 0.0


def _spectrum(name: str, modules: Sequence[Row]) -> Spectrum:
    curves = [
        [value / one["delta_norm"] for value in one["singular_values"][:_MOST_VALUES]]
        for one in modules
    ]
    # Modules may have different numbers of values; each place is of those that have it.
    places = [
        [curve[place] for curve in curves if len(curve) > place]
        for place in range(max(map(len, curves)))
    ]
    floors = [floor for floor in map(floor_of, modules) if floor is not None]
    return Spectrum(
        title=name,
        middle=tuple(map(median, places)),
        low=tuple(map(min, places)),
        high=tuple(map(max, places)),
        floor=median(floors) if floors else None,
        rank=round(median(one["rank"] for one in modules)),
    )


def floor_of(module: Row) -> float | None:
    """Return the largest singular value that rounding alone gives, over ‖ΔW‖; None if unknown.

    Independent errors of standard deviation τ in an (m, n) matrix have the norm τ√(mn), which
    the report knows, and singular values up to τ(√m + √n) (Marchenko and Pastur, 1967). Of E
    experts the root of their summed squares grows by √E, as the norm does.
    """
    floor = module.get("rounding_floor")
    if floor is None:
        return None
    m, n = module["shape"]
    return float(floor) * (math.sqrt(m) + math.sqrt(n)) / math.sqrt(m * n)

"""What of a spectrum stands above the rounding of the stored weights."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from loragraft.report.model import ModuleReport

#: The edge below is for independent errors of equal size. Those of a merge differ from row to row
#: and column to column, which spreads their singular values.
_MARGIN: Final = 1.1


def rank_above_rounding(module: ModuleReport) -> int | None:
    """Count the singular values that rounding alone would not give.

    Rounding errors of standard deviation τ, independent over an (m, n) matrix, have singular
    values up to about τ(√m + √n) (Marchenko, Pastur 1967). τ is taken from the rounding floor, so
    every weight counts as rounded by a uniform share of its last place. Where ΔW is smaller than
    that, the count says little.

    Returns:
        The count, at most the number of singular values in the report; None without them.
    """
    if not module.singular_values or module.rounding_floor is None:
        return None
    m, n = module.shape
    deviation = module.rounding_floor * module.delta_norm / math.sqrt(m * n)
    edge = _MARGIN * deviation * (math.sqrt(m) + math.sqrt(n))
    return sum(value > edge for value in module.singular_values)


def typical_rank(modules: Iterable[ModuleReport]) -> int | None:
    """Return the median of `rank_above_rounding`, None where no module tells."""
    ranks = [rank for rank in map(rank_above_rounding, modules) if rank is not None]
    return round(statistics.median(ranks)) if ranks else None

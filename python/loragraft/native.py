"""The door to the C++ extension; nothing else imports it.

Exposes what the rest of the package needs under the extension's own names, plus the thread policy.
"""

from __future__ import annotations

import os
from typing import Final

from loragraft._core import (
    Batch,
    ExactFactors,
    MappedFile,
    ModuleResult,
    ModuleTask,
    Recovery,
    StoredMatrix,
    available_isas,
    best_products,
    blas_description,
    cell_residual,
    count_exact,
    exact_factors,
    factored_inner_product,
    frobenius_norm,
    inner_product,
    isa,
    leading_subspaces,
    mixed_inner_product,
    narrow,
    philox_block,
    project_dense,
    project_factors,
    rounding_cells,
    subspace_similarity,
    truncated_svd,
    unit_lines_times,
    widen,
)
from loragraft.errors import UsageError

__all__ = [
    "Batch",
    "ExactFactors",
    "MappedFile",
    "ModuleResult",
    "ModuleTask",
    "Recovery",
    "StoredMatrix",
    "available_isas",
    "best_products",
    "blas_description",
    "cell_residual",
    "count_exact",
    "exact_factors",
    "factored_inner_product",
    "frobenius_norm",
    "inner_product",
    "isa",
    "leading_subspaces",
    "mixed_inner_product",
    "narrow",
    "philox_block",
    "project_dense",
    "project_factors",
    "resolve_threads",
    "rounding_cells",
    "subspace_similarity",
    "truncated_svd",
    "unit_lines_times",
    "widen",
]


#: More is a slip: no machine has as many cores, and every thread costs memory.
_MOST_THREADS: Final = 1024


def resolve_threads(threads: int | None) -> int:
    """Return the number of threads to use: as asked, or one per core this process may run on.

    Raises:
        UsageError: ``threads`` is not between 1 and 1024.
    """
    if threads is None:
        return len(os.sched_getaffinity(0))
    if not 1 <= threads <= _MOST_THREADS:
        raise UsageError(f"--threads {threads}: expected 1 to {_MOST_THREADS}")
    return threads

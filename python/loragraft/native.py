"""The door to the C++ extension; nothing else imports it.

Exposes what the rest of the package needs under the extension's own names, plus the thread policy.
"""

from __future__ import annotations

import os

from loragraft._core import (
    Batch,
    MappedFile,
    ModuleResult,
    ModuleTask,
    StoredMatrix,
    available_isas,
    blas_description,
    factored_inner_product,
    inner_product,
    isa,
    narrow,
    philox_block,
    project_dense,
    project_factors,
    subspace_similarity,
    truncated_svd,
    widen,
)
from loragraft.errors import UsageError

__all__ = [
    "Batch",
    "MappedFile",
    "ModuleResult",
    "ModuleTask",
    "StoredMatrix",
    "available_isas",
    "blas_description",
    "factored_inner_product",
    "inner_product",
    "isa",
    "narrow",
    "philox_block",
    "project_dense",
    "project_factors",
    "resolve_threads",
    "subspace_similarity",
    "truncated_svd",
    "widen",
]


def resolve_threads(threads: int | None) -> int:
    """Return the number of threads to use: as asked, or one per core this process may run on.

    Raises:
        UsageError: ``threads`` is not positive.
    """
    if threads is None:
        return len(os.sched_getaffinity(0))
    if threads < 1:
        raise UsageError(f"threads {threads}: expected 1 or more")
    return threads

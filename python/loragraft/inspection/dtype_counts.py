"""Tensors counted by what they are stored in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loragraft.report.inspection import DTypeCount

if TYPE_CHECKING:
    from collections.abc import Iterable

    from loragraft.tensor_entry import TensorEntry


def dtype_counts(entries: Iterable[TensorEntry]) -> tuple[DTypeCount, ...]:
    """Return the dtypes of tensors, the largest share first."""
    groups: dict[str, list[TensorEntry]] = {}
    for entry in entries:
        groups.setdefault(entry.dtype, []).append(entry)
    counts = [
        DTypeCount(
            dtype,
            len(group),
            sum(entry.parameters for entry in group),
            sum(entry.nbytes for entry in group),
        )
        for dtype, group in groups.items()
    ]
    return tuple(sorted(counts, key=lambda count: (-count.bytes, count.dtype)))

"""Tensors that are not computed with: equal bytes still mean that nothing changed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from loragraft.checkpoint import TensorReader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loragraft.alignment import TensorPair
    from loragraft.checkpoint import TensorEntry
    from loragraft.extraction.plan import ExtractionPlan

_PIECE: Final = 16 << 20


def compare_opaque(plan: ExtractionPlan) -> Iterator[tuple[TensorPair, bool]]:
    """Yield every pair of ``plan.opaque`` and whether both sides store the same bytes.

    Raises:
        FormatError: A file cannot be read, or changed meanwhile.
    """
    with TensorReader() as reader:
        for pair in plan.opaque:
            assert pair.base is not None
            assert pair.tuned is not None
            yield pair, _same_bytes(reader, pair.base, pair.tuned)


def _same_bytes(reader: TensorReader, base: TensorEntry, tuned: TensorEntry) -> bool:
    left, right = (replace(entry, dtype="U8", shape=(entry.nbytes,)) for entry in (base, tuned))
    for start in range(0, base.nbytes, _PIECE):
        stop = min(start + _PIECE, base.nbytes)
        one, other = reader.raw_rows(left, start, stop), reader.raw_rows(right, start, stop)
        if not np.array_equal(one, other):
            return False
    return True

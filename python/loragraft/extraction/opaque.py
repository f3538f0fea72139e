"""Tensors that are not computed with: equal bytes still mean that nothing changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from loragraft.tensor_bytes import TensorBytes

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
    with TensorBytes() as reader:
        for pair in plan.opaque:
            assert pair.base is not None
            assert pair.tuned is not None
            yield pair, _same_bytes(reader, pair.base, pair.tuned)


def _same_bytes(reader: TensorBytes, base: TensorEntry, tuned: TensorEntry) -> bool:
    pieces = ((start, min(start + _PIECE, base.nbytes)) for start in range(0, base.nbytes, _PIECE))
    return all(reader.raw_part(base, *piece) == reader.raw_part(tuned, *piece) for piece in pieces)

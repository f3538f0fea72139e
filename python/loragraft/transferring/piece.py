"""What a pair has become before it is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from loragraft.transferring.report import Fate, TransferredModule

if TYPE_CHECKING:
    from loragraft.transferring.methods.method import Bases
    from loragraft.transferring.pairing import Pair
    from loragraft.transferring.update import Update


@dataclass(frozen=True, slots=True)
class Piece:
    """A pair after its transfer: all of a module, or a part of a fused one.

    Attributes:
        pair: Target and source.
        row: The report's row so far.
        bases: Subspaces of both weights.
        mapped: The update as the method's maps give it, of at most the source's rank, so that
            parts of one lora_A still share theirs; None where the pair was left out.
        balanced: The same with factors of equal weight.
        scale: What it is multiplied with.
        exact: The factors may be taken over as they are.
    """

    pair: Pair
    row: TransferredModule
    bases: Bases
    mapped: Update | None = None
    balanced: Update | None = None
    scale: float = 1.0
    exact: bool = False


def row_of(pair: Pair, share: float) -> TransferredModule:
    """Return the report's row of a pair of which nothing is measured yet."""
    target, source = pair.target, pair.source.part
    return TransferredModule(
        name=target.whole.name,
        kind=target.whole.kind,
        layer=target.whole.layer,
        shape=target.linear.shape,
        outcome=Fate.LEFT_OUT,
        why="",
        source=source.whole.name,
        source_layer=source.whole.layer,
        source_shape=source.linear.shape,
        share=share,
        divided_by=pair.divided,
        part=target.title,
        source_part=source.title,
        source_rank=pair.source.module.rank,
    )

"""The factors of one module of the target, out of the pieces that go to it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from loragraft.transferring.factors import cast, verbatim
from loragraft.transferring.joining import RowFactors, indices, least_rank, stacked
from loragraft.transferring.options import DTYPES
from loragraft.transferring.update import Update
from loragraft.transferring.verdict import near_no_op
from loragraft.wording import listed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loragraft.tensor_reader import TensorReader
    from loragraft.transferring.factors import WrittenFactors
    from loragraft.transferring.piece import Piece
    from loragraft.transferring.report import TransferredModule


def factors_of(reader: TensorReader, pieces: Sequence[Piece], dtype: str) -> WrittenFactors:
    """Return factors to write: the sources' as they are, where nothing at all is to change.

    Args:
        reader: Reads the adapter.
        pieces: Those of one module that were kept, at least one.
        dtype: As asked for.

    Raises:
        NonFiniteError: They leave the range of float32.
        FormatError: A file cannot be read.
    """
    modules = [piece.pair.source.module for piece in pieces]
    target, scaling = pieces[0].pair.target.whole, modules[0].scaling
    inputs = {module.lora_A.dtype for module in modules}
    code = DTYPES.get(dtype) or (inputs.pop() if len(inputs) == 1 else DTYPES["fp32"])
    stored = {factor.dtype for module in modules for factor in (module.lora_A, module.lora_B)}
    untouched = all(
        piece.exact and piece.pair.divided == 1 and piece.scale == 1.0 for piece in pieces
    )
    if untouched and stored == {code} and {module.scaling for module in modules} == {scaling}:
        found = verbatim(reader, [piece.pair for piece in pieces])
        if len({piece.pair.source.module.name for piece in pieces}) == 1:
            return found
        least = least_rank(found.update)
        return found if least.rank == found.rank else cast(target, least, scaling, code)
    return cast(target, _joined(pieces), scaling, code)


def _joined(pieces: Sequence[Piece]) -> Update:
    """Return the update of all of a module, of the least rank that holds all of its parts."""
    first = pieces[0]
    if first.pair.target.is_whole:
        assert first.balanced is not None
        return first.balanced.times(first.scale)
    parts = [
        RowFactors(piece.pair.target.rows, piece.mapped.B * piece.scale, piece.mapped.A)
        for piece in pieces
        if piece.mapped is not None
    ]
    B, A = stacked(first.pair.target.whole.shape[0], parts)
    return least_rank(Update(B, A))


def measured(piece: Piece, kept: Sequence[Piece], factors: WrittenFactors) -> TransferredModule:
    """Return the row of a piece with the figures of the factors as they are written.

    Args:
        piece: One of the pieces of a module.
        kept: Those of them that were written.
        factors: What was written for them.
    """
    row, bases = piece.row, piece.bases
    if piece.mapped is None:
        return row
    update = factors.update
    if not piece.pair.target.is_whole:
        update = Update(update.B[indices(piece.pair.target.rows)], update.A)
    delta_norm = update.norm
    effect = delta_norm / bases.target.norm if bases.target.norm > 0.0 else None
    own = bases.source.norm
    return replace(
        row,
        why="; ".join(filter(None, (row.why, _taken(piece), _joint(piece, kept, factors.rank)))),
        rank=factors.rank,
        alpha=factors.alpha,
        dtype=factors.dtype,
        delta_norm=delta_norm,
        effect=effect,
        source_effect=row.source_norm * row.divided_by / own if own > 0.0 else None,
        near_no_op=near_no_op(effect, row.retained, row.chance_retained),
    )


def _taken(piece: Piece) -> str:
    """Say what was taken out of a fused module of the source; empty where nothing was."""
    source = piece.pair.source.part
    return f"{source.title} rows of the source's {source.whole.kind}" if source.title else ""


def _joint(piece: Piece, kept: Sequence[Piece], rank: int) -> str:
    """Say what a part was joined with, and what that makes of the rank."""
    target = piece.pair.target
    if target.is_whole:
        return ""
    into, others = target.whole.kind, [one.pair.target.title for one in kept if one is not piece]
    if not others:
        return f"the {target.title} rows of {into}, whose other rows are zero"
    ranks = [one.mapped.rank for one in kept if one.mapped is not None]
    how = f"the sum of its parts' {' + '.join(map(str, ranks))}"
    if rank != sum(ranks):
        how = "its parts share lora_A" if rank == max(ranks) else "the least that holds its parts"
    return f"joined with {listed(others)} into {into} of rank {rank}, {how}"

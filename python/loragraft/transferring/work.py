"""The transfer of one module: evidence, choice of method, the update, and its figures."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from loragraft.comparison.kinship import kinship_of
from loragraft.transferring.assembly import factors_of, measured
from loragraft.transferring.methods import AUTO, METHODS, WHOLE_METHODS
from loragraft.transferring.methods.method import Bases
from loragraft.transferring.piece import Piece, row_of
from loragraft.transferring.report import Fate
from loragraft.transferring.source_adapter import read_update
from loragraft.transferring.update import balanced, mapped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loragraft.subspaces.finder import SubspaceFinder
    from loragraft.tensor_reader import TensorReader
    from loragraft.transferring.factors import WrittenFactors
    from loragraft.transferring.methods.method import Alignment, Method
    from loragraft.transferring.options import MinSimilarity, TransferOptions
    from loragraft.transferring.pairing import Pair
    from loragraft.transferring.report import TransferredModule


class Evidence(NamedTuple):
    """What is known of a pair before a method is chosen.

    Attributes:
        bases: Subspaces of both weights, of one dimension; of dimension 0 where none were needed.
        row: The report's row so far.
        is_clear: Similarity is clearly above chance on every side where it is defined.
    """

    bases: Bases
    row: TransferredModule
    is_clear: bool


class Made(NamedTuple):
    """A module of the target after its transfer.

    Attributes:
        rows: What became of each of its pairs: of the module, or of its parts.
        factors: What is to be written; None where all of it was left out.
    """

    rows: tuple[TransferredModule, ...]
    factors: WrittenFactors | None = None


@dataclass(frozen=True, slots=True)
class Worker:
    """Transfers modules one by one.

    Attributes:
        reader: Reads both models and the adapter.
        finder: Finds subspaces.
        options: What was asked for.
        alignment: Of both models as a whole, where the method makes one; no subspaces are needed
            then.
    """

    reader: TensorReader
    finder: SubspaceFinder
    options: TransferOptions
    alignment: Alignment | None = None

    def transfer(self, pair: Pair, share: float) -> Piece:
        """Transfer one pair.

        Args:
            pair: Target and source.
            share: Of the adapter's squared norm.

        Raises:
            NonFiniteError: NaN or Inf in a weight or a factor.
            FormatError: A file cannot be read.
        """
        started = time.perf_counter()
        bases, row, is_clear = self.evidence(pair, share)
        why = _filtered(row, is_clear, self.options.min_similarity)
        if why:
            piece = Piece(pair, replace(row, why=why), bases)
        else:
            name, reason = self._choice(row, is_clear)
            piece = self.make(pair, self.method(name, pair), bases, row, reason)
        seconds = time.perf_counter() - started
        return replace(piece, row=replace(piece.row, seconds=seconds))

    def join(self, pieces: Sequence[Piece]) -> Made:
        """Put the pieces of one module of the target together, and measure what is written.

        Raises:
            NonFiniteError: The factors leave the range of float32.
            FormatError: A file cannot be read.
        """
        kept = [piece for piece in pieces if piece.mapped is not None]
        if not kept:
            return Made(tuple(piece.row for piece in pieces))
        factors = factors_of(self.reader, kept, self.options.dtype)
        return Made(tuple(measured(piece, kept, factors) for piece in pieces), factors)

    def method(self, name: str, pair: Pair) -> Method:
        """Return a method by name; for this pair where it is one of whole models."""
        if self.alignment is not None and name in WHOLE_METHODS:
            return self.alignment.method(pair.source.linear, pair.target.linear)
        return METHODS[name]

    def evidence(self, pair: Pair, share: float) -> Evidence:
        """Measure how much a pair has in common, as far as the method or a filter asks for it."""
        row = row_of(pair, share)
        source, target = pair.source.linear, pair.target.linear
        if not needs_subspaces(self.alignment, self.options):
            bases = Bases(*(self.finder.norm_alone(one) for one in (source, target)))
            return Evidence(bases, replace(row, weight_norm=bases.target.norm), is_clear=False)
        kinship = kinship_of(self.finder, self.reader, source, target)
        row = replace(
            row,
            subspace_rank=kinship.first.rank,
            left=kinship.left,
            right=kinship.right,
            excess=kinship.excess,
            weight_change=kinship.likeness.change,
            weight_cosine=kinship.likeness.cosine,
            weight_norm=kinship.second.norm,
        )
        return Evidence(Bases(kinship.first, kinship.second), row, kinship.is_clear)

    def _choice(self, row: TransferredModule, is_clear: bool) -> tuple[str, str]:
        """Return the method for a module, and why that one."""
        if self.options.method != AUTO:
            return self.options.method, "as asked for"
        if row.shape != row.source_shape:
            return "lora-x", "auto: the shapes differ, so there is nothing to copy"
        if is_clear:
            return "copy", "auto: equal shape, and similarity clearly above chance"
        return "lora-x", "auto: equal shape, but similarity not clearly above chance"

    def make(
        self, pair: Pair, method: Method, bases: Bases, row: TransferredModule, reason: str
    ) -> Piece:
        """Apply a method to a pair.

        Args:
            pair: Target and source.
            method: The alignment.
            bases: Subspaces of both weights.
            row: The report's row so far.
            reason: Why this method.
        """
        source, target = pair.source.linear.shape, pair.target.linear.shape
        row = replace(row, method=method.name)
        why = method.refusal(source, target)
        if why:
            return Piece(pair, replace(row, why=why), bases)
        update = read_update(self.reader, pair.source).times(1.0 / pair.divided)
        norm = update.norm
        if norm == 0.0:
            return Piece(pair, replace(row, why="the source's update is zero"), bases)
        found = mapped(update, method.terms(bases))
        rank = min(update.rank, *target)
        result = balanced(found, rank)
        kept = norm if method.exact else result.update.norm
        if kept == 0.0:
            return Piece(pair, replace(row, why="the map leaves nothing of it"), bases)
        why = "; ".join(filter(None, (reason, method.remark(source, target))))
        row = replace(
            row,
            outcome=Fate.COPIED if method.exact else Fate.TRANSFERRED,
            why=why,
            source_norm=norm,
            retained=kept / norm,
            chance_retained=method.chance(bases),
            rank_loss=result.lost,
        )
        scale = norm / kept if self.options.scale is None else self.options.scale
        whole = found if found.rank <= rank else result.update
        return Piece(pair, row, bases, whole, result.update, scale, method.exact)


def needs_subspaces(alignment: Alignment | None, options: TransferOptions) -> bool:
    """Say whether the method, or a filter, asks for the subspaces of all pairs."""
    return alignment is None or options.min_similarity is not None


def _filtered(row: TransferredModule, is_clear: bool, least: MinSimilarity | None) -> str:
    """Return why the similarity filter removes a module; empty where it does not."""
    if least is None or (least.excess is None and is_clear):
        return ""
    if row.excess is None:
        sides = (row.left, row.right)
        whys = dict.fromkeys(side.why for side in sides if side is not None and side.why)
        return f"--min-similarity {least}: similarity is unknown, {' and '.join(whys)}"
    if least.excess is None:
        return f"--min-similarity {least}: excess {row.excess:.3f} is not clearly above chance"
    if row.excess >= least.excess:
        return ""
    return f"--min-similarity {least}: excess over chance is {row.excess:.3f}"

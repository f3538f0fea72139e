"""The transfer of one module: evidence, choice of method, the update, and its figures."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from loragraft.comparison.kinship import kinship_of
from loragraft.transferring.factors import cast, verbatim
from loragraft.transferring.methods import AUTO, METHODS, WHOLE_METHODS
from loragraft.transferring.methods.method import Bases
from loragraft.transferring.options import DTYPES
from loragraft.transferring.report import Fate, TransferredModule
from loragraft.transferring.source_adapter import read_update
from loragraft.transferring.update import balanced, mapped
from loragraft.transferring.verdict import near_no_op

if TYPE_CHECKING:
    from loragraft.subspaces.finder import SubspaceFinder
    from loragraft.tensor_reader import TensorReader
    from loragraft.transferring.factors import WrittenFactors
    from loragraft.transferring.methods.method import Alignment, Method
    from loragraft.transferring.options import MinSimilarity, TransferOptions
    from loragraft.transferring.pairing import Pair
    from loragraft.transferring.update import Update


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
    """A pair after its transfer; no factors where it was left out."""

    row: TransferredModule
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

    def transfer(self, pair: Pair, share: float) -> Made:
        """Transfer one module.

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
            made = Made(replace(row, why=why))
        else:
            name, reason = self._choice(row, is_clear)
            made = self.make(pair, self.method(name, pair), bases, row, reason)
        seconds = time.perf_counter() - started
        return Made(replace(made.row, seconds=seconds), made.factors)

    def method(self, name: str, pair: Pair) -> Method:
        """Return a method by name; for this pair where it is one of whole models."""
        if self.alignment is not None and name in WHOLE_METHODS:
            return self.alignment.method(pair.source.linear, pair.target)
        return METHODS[name]

    def evidence(self, pair: Pair, share: float) -> Evidence:
        """Measure how much a pair has in common, as far as the method or a filter asks for it."""
        row = _row(pair, share)
        if not needs_subspaces(self.alignment, self.options):
            bases = Bases(
                *(self.finder.norm_alone(one) for one in (pair.source.linear, pair.target))
            )
            return Evidence(bases, replace(row, weight_norm=bases.target.norm), is_clear=False)
        kinship = kinship_of(self.finder, self.reader, pair.source.linear, pair.target)
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
    ) -> Made:
        """Apply a method to a pair.

        Args:
            pair: Target and source.
            method: The alignment.
            bases: Subspaces of both weights.
            row: The report's row so far.
            reason: Why this method.
        """
        source, target = pair.source.linear, pair.target
        row = replace(row, method=method.name)
        why = method.refusal(source.shape, target.shape)
        if why:
            return Made(replace(row, why=why))
        update = read_update(self.reader, pair.source).times(1.0 / pair.divided)
        norm = update.norm
        if norm == 0.0:
            return Made(replace(row, why="the source's update is zero"))
        rank = min(pair.source.module.rank, *target.shape)
        result = balanced(mapped(update, method.terms(bases)), rank)
        kept = norm if method.exact else result.update.norm
        if kept == 0.0:
            return Made(replace(row, why="the map leaves nothing of it"))
        scale = norm / kept if self.options.scale is None else self.options.scale
        factors = self._factors(pair, method, result.update, scale)
        why = "; ".join(filter(None, (reason, method.remark(source.shape, target.shape))))
        row = replace(
            row,
            outcome=Fate.COPIED if method.exact else Fate.TRANSFERRED,
            why=why,
            source_norm=norm,
            retained=kept / norm,
            chance_retained=method.chance(bases),
            rank_loss=result.lost,
        )
        return Made(_measured(row, factors, bases), factors)

    def _factors(self, pair: Pair, method: Method, update: Update, scale: float) -> WrittenFactors:
        """Return factors to write: the source's as they are, where nothing at all is to change."""
        module = pair.source.module
        code = DTYPES.get(self.options.dtype, module.lora_A.dtype)
        untouched = method.exact and pair.divided == 1 and scale == 1.0
        if untouched and code == module.lora_A.dtype == module.lora_B.dtype:
            return verbatim(self.reader, pair.target, module)
        return cast(pair.target, update.times(scale), module.scaling, code)


def needs_subspaces(alignment: Alignment | None, options: TransferOptions) -> bool:
    """Say whether the method, or a filter, asks for the subspaces of all pairs."""
    return alignment is None or options.min_similarity is not None


def _row(pair: Pair, share: float) -> TransferredModule:
    """Return the report's row of a pair of which nothing is measured yet."""
    source, target = pair.source.linear, pair.target
    return TransferredModule(
        name=target.name,
        kind=target.kind,
        layer=target.layer,
        shape=target.shape,
        outcome=Fate.LEFT_OUT,
        why="",
        source=source.name,
        source_layer=source.layer,
        source_shape=source.shape,
        share=share,
        divided_by=pair.divided,
    )


def _measured(row: TransferredModule, factors: WrittenFactors, bases: Bases) -> TransferredModule:
    """Return a row with the figures of the factors as they are written."""
    delta_norm = factors.update.norm
    effect = delta_norm / bases.target.norm if bases.target.norm > 0.0 else None
    own = bases.source.norm
    return replace(
        row,
        rank=factors.rank,
        alpha=factors.alpha,
        dtype=factors.dtype,
        delta_norm=delta_norm,
        effect=effect,
        source_effect=row.source_norm * row.divided_by / own if own > 0.0 else None,
        near_no_op=near_no_op(effect, row.retained, row.chance_retained),
    )


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

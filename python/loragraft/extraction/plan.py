"""What an extraction will do, worked out from headers alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from loragraft.adapter.embedding import why_not_factored
from loragraft.adapter.tying import vocabulary_of
from loragraft.alignment import TensorPair, align
from loragraft.architecture.modules import LinearModule, take_inventory
from loragraft.architecture.roles import Role
from loragraft.architecture.selection import select
from loragraft.errors import MismatchError, NothingToAdaptError, UsageError
from loragraft.extraction.options import FACTOR_DTYPES
from loragraft.extraction.ranks import rules
from loragraft.extraction.unit import Unit
from loragraft.number_formats import VALUE_DTYPES
from loragraft.wording import quoted, shown

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from loragraft.alignment import Alignment
    from loragraft.architecture.modules import Inventory
    from loragraft.checkpoint import Checkpoint
    from loragraft.extraction.options import ExtractOptions

#: Below this share of linear layers that both sides have, they are different models.
_LEAST_COMMON: Final = 0.5
_SHOWN: Final = 3


class ModulePlan(NamedTuple):
    """One weight to factor.

    Attributes:
        linear: The module, as BASE stores it.
        unit: Its matrices on both sides.
        transposed: The matrices are ``[in, out]``.
        rank: Triplets to compute of each; below the rank asked for where a matrix has no more.
    """

    linear: LinearModule
    unit: Unit
    transposed: bool
    rank: int

    @property
    def parameters_per_rank(self) -> int:
        """Numbers in the factors of rank 1, all experts together."""
        return sum(self.linear.shape) * len(self.unit.base)


class ExtractionPlan(NamedTuple):
    """Every tensor of both checkpoints, sorted by what will be done with it.

    Attributes:
        base: The base checkpoint.
        tuned: The tuned checkpoint.
        modules: Weights to factor, in the base's order.
        measured: Other weights whose change is measured and reported, with the reason.
        untouched: Tensors that cannot be compared, with the reason.
        inventory: What the base consists of.
        capped: Modules whose rank is below the one asked for.
        options: The options.
    """

    base: Checkpoint
    tuned: Checkpoint
    modules: tuple[ModulePlan, ...]
    measured: tuple[tuple[Unit, str], ...]
    untouched: tuple[tuple[TensorPair, str], ...]
    inventory: Inventory
    options: ExtractOptions

    @property
    def units(self) -> tuple[Unit, ...]:
        """Everything that is computed, the modules first."""
        return (*(module.unit for module in self.modules), *(unit for unit, _ in self.measured))

    @property
    def capped(self) -> tuple[ModulePlan, ...]:
        """Modules whose rank is below the one asked for."""
        return tuple(m for m in self.modules if m.rank < self.options.rank.most)

    @property
    def opaque(self) -> tuple[TensorPair, ...]:
        """Pairs in one format that is not computed with, whose bytes can be compared."""
        return tuple(pair for pair, _ in self.untouched if _is_alike(pair))

    @property
    def bytes_to_read(self) -> int:
        """Bytes of tensor data on both sides that will be compared."""
        return sum(unit.nbytes for unit in self.units) + sum(pair.nbytes for pair in self.opaque)

    @property
    def largest_result(self) -> int:
        """Bytes of factors if every module differs and takes the largest rank."""
        return self.result_at(self.options.rank.most)

    @property
    def largest_spool(self) -> int:
        """Bytes of factors on their way: exact ones lie beside those that they start from."""
        return self.largest_result + (self.largest_results if self.options.exact else 0)

    @property
    def largest_results(self) -> int:
        """The same for all adapters that are written."""
        return sum(self.result_at(rule.most) for _, rule in rules(self.options.rank))

    def result_at(self, rank: int) -> int:
        """Return the bytes of factors of a rank if every module differs."""
        options = self.options
        dtype = options.exact_dtype if options.exact else options.dtype
        size = 4 if FACTOR_DTYPES[dtype] == "F32" else 2
        return sum(size * min(rank, m.rank) * m.parameters_per_rank for m in self.modules)


def make_plan(base: Checkpoint, tuned: Checkpoint, options: ExtractOptions) -> ExtractionPlan:
    """Match two checkpoints and choose what to adapt.

    Raises:
        MismatchError: They are not of one architecture.
        NothingToAdaptError: No layer is left to adapt.
        UsageError: The selection names what does not exist.
    """
    ours = take_inventory(base, options.layout, fallback=tuned.config)
    theirs = take_inventory(tuned, options.layout, fallback=base.config)
    chosen, left_out = select(ours, options.selection)
    embeddings = [linear for linear in chosen if linear.address.embedding]
    _check_untied(base, embeddings)
    alignment = align(base, tuned, ours, theirs, [linear.name for linear in embeddings])
    _check_same_model(base, tuned, ours, alignment)
    wanted = {linear.name for linear in chosen}
    _check_experts(base, tuned, chosen, alignment)
    modules, measured, untouched = [], [], []
    for pair in alignment.modules:
        unit, transposed = Unit.of_modules(pair)
        if pair.base.name in wanted:
            rank = min(options.rank.most, *pair.base.shape)
            modules.append(ModulePlan(pair.base, unit, transposed, rank))
        else:
            measured.append((unit, left_out[pair.base.tensor]))
    for other in alignment.others:
        why = other.why or _why_uncomputable(other, ours.codes | theirs.codes)
        if why:
            untouched.append((other, why))
        else:
            reason = left_out.get(other.name, "not comparable as the weight of a module")
            measured.append((Unit.of_tensors(other), reason))
    if not modules:
        raise NothingToAdaptError(
            f"none of the {len(chosen)} chosen layers can be compared, the first because:"
            f" {untouched[0][1] if untouched else 'no such tensor'}"
        )
    return ExtractionPlan(
        base,
        tuned,
        tuple(modules),
        tuple(measured),
        tuple(untouched),
        ours,
        options,
    )


def _check_experts(
    base: Checkpoint, tuned: Checkpoint, chosen: Sequence[LinearModule], alignment: Alignment
) -> None:
    """Refuse to leave experts out in silence because only one side tells what they are."""
    paired = {pair.base.name for pair in alignment.modules}
    lost = [one for one in chosen if one.role is Role.EXPERTS and one.name not in paired]
    if lost:
        raise MismatchError(
            f"the experts {lost[0].name} of {shown(base.reference)} have no counterpart in"
            f" {shown(tuned.reference)}: their model_type in config.json is"
            f" {quoted((base.config or {}).get('model_type'))} and"
            f" {quoted((tuned.config or {}).get('model_type'))}; give both sides the config.json of"
            " the model, or leave the experts out with --exclude experts"
        )


def _check_untied(base: Checkpoint, embeddings: Sequence[LinearModule]) -> None:
    """Refuse factors of an embedding that is the head as well."""
    vocabulary = vocabulary_of(base)
    for linear in embeddings:
        if not vocabulary.tied or vocabulary.embedding is None or vocabulary.head is None:
            continue
        if linear.tensor == vocabulary.embedding.entry.name:
            why = why_not_factored(linear.name, vocabulary.head.path or "the head")
            raise UsageError(f"--target-modules: {why} (--save-whole embeddings)")


def _is_alike(pair: TensorPair) -> bool:
    base, tuned = pair.base, pair.tuned
    return (
        base is not None
        and tuned is not None
        and (base.dtype, base.shape) == (tuned.dtype, tuned.shape)
    )


def _why_uncomputable(pair: TensorPair, codes: Collection[str]) -> str:
    if pair.base is None or pair.tuned is None:
        return pair.why
    if pair.name in codes:
        return "codes or scales of a weight that is not compared"
    for side, entry in (("BASE", pair.base), ("TUNED", pair.tuned)):
        if entry.dtype not in VALUE_DTYPES:
            return f"{entry.dtype} in {side} is not computed with"
    if 0 in pair.base.shape:
        return "empty"
    return ""


def _check_same_model(
    base: Checkpoint, tuned: Checkpoint, ours: Inventory, alignment: Alignment
) -> None:
    """Refuse checkpoints that share few layers: differences of different models mean nothing."""
    weights = {linear.tensor for linear in ours.linears}
    # What cannot be computed with, or has another vocabulary, is still the same layer.
    common, count = len(alignment.modules), len(weights)
    common += sum(pair.name in weights and None not in pair[1:3] for pair in alignment.others)
    if count and common >= _LEAST_COMMON * count:
        return
    sides: Mapping[str, tuple[Checkpoint, list[str]]] = {
        "TUNED": (tuned, [name for name in base.tensors if name not in tuned.tensors]),
        "BASE": (base, [name for name in tuned.tensors if name not in base.tensors]),
    }
    lacks = "; ".join(
        f"{side} ({shown(checkpoint.reference)}) lacks {', '.join(names[:_SHOWN])}"
        + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        for side, (checkpoint, names) in sides.items()
        if names
    )
    raise MismatchError(
        f"the two checkpoints share {common} of {count} linear layers of BASE:"
        f" {lacks or 'BASE has no linear layer'}; give two checkpoints of one architecture"
    )

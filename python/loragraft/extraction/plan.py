"""What an extraction will do, worked out from headers alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from loragraft.alignment import TensorPair, align
from loragraft.architecture.modules import LinearModule, take_inventory
from loragraft.architecture.selection import select
from loragraft.errors import MismatchError, NothingToAdaptError
from loragraft.extraction.options import FACTOR_DTYPES
from loragraft.number_formats import WEIGHT_DTYPES
from loragraft.wording import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loragraft.checkpoint import Checkpoint
    from loragraft.extraction.options import ExtractOptions

#: Below this share of linear layers that both sides have, they are different models.
_LEAST_COMMON: Final = 0.5
_SHOWN: Final = 3


class ModulePlan(NamedTuple):
    """One linear layer to factor.

    Attributes:
        linear: The layer.
        pair: Its weight on both sides.
        rank: Triplets to compute; below the rank asked for where the matrix has no more.
    """

    linear: LinearModule
    pair: TensorPair
    rank: int


class ExtractionPlan(NamedTuple):
    """Every tensor of both checkpoints, sorted by what will be done with it.

    Attributes:
        base: The base checkpoint.
        tuned: The tuned checkpoint.
        modules: Layers to factor, in the base's order.
        measured: Other pairs whose change is measured and reported, with the reason.
        untouched: Tensors that cannot be compared, with the reason.
        known_linears: Names of all linear layers of the base.
        capped: Modules whose rank is below the one asked for.
        options: The options.
    """

    base: Checkpoint
    tuned: Checkpoint
    modules: tuple[ModulePlan, ...]
    measured: tuple[tuple[TensorPair, str], ...]
    untouched: tuple[tuple[TensorPair, str], ...]
    known_linears: tuple[str, ...]
    options: ExtractOptions

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
        pairs = [*(m.pair for m in self.modules), *(p for p, _ in self.measured), *self.opaque]
        return sum(pair.nbytes for pair in pairs)

    @property
    def largest_result(self) -> int:
        """Bytes of factors if every module differs and takes its full rank."""
        size = 4 if FACTOR_DTYPES[self.options.dtype] == "F32" else 2
        return sum(size * m.rank * sum(m.linear.shape) for m in self.modules)


def make_plan(base: Checkpoint, tuned: Checkpoint, options: ExtractOptions) -> ExtractionPlan:
    """Match two checkpoints and choose what to adapt.

    Raises:
        MismatchError: They are not of one architecture.
        NothingToAdaptError: No layer is left to adapt.
        UsageError: The selection names what does not exist.
    """
    inventory = take_inventory(base)
    _check_same_model(base, tuned, {linear.tensor for linear in inventory.linears})
    chosen, left_out = select(inventory, options.selection)
    by_tensor = {linear.tensor: linear for linear in chosen}
    modules, measured, untouched = [], [], []
    for pair in align(base, tuned, inventory):
        why = pair.why or _why_uncomputable(pair)
        linear = by_tensor.get(pair.name)
        if why:
            untouched.append((pair, why))
        elif linear is None:
            measured.append((pair, left_out[pair.name]))
        else:
            modules.append(ModulePlan(linear, pair, min(options.rank.most, *linear.shape)))
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
        tuple(linear.name for linear in inventory.linears),
        options,
    )


def _is_alike(pair: TensorPair) -> bool:
    base, tuned = pair.base, pair.tuned
    return (
        base is not None
        and tuned is not None
        and (base.dtype, base.shape) == (tuned.dtype, tuned.shape)
    )


def _why_uncomputable(pair: TensorPair) -> str:
    if pair.base is None or pair.tuned is None:
        return pair.why
    for side, entry in (("BASE", pair.base), ("TUNED", pair.tuned)):
        if entry.dtype not in WEIGHT_DTYPES:
            return f"{entry.dtype} in {side} is not computed with"
    if 0 in pair.base.shape:
        return "empty"
    return ""


def _check_same_model(base: Checkpoint, tuned: Checkpoint, linear_tensors: set[str]) -> None:
    """Refuse checkpoints that share few layers: differences of different models mean nothing."""
    only_base = [name for name in base.tensors if name not in tuned.tensors]
    only_tuned = [name for name in tuned.tensors if name not in base.tensors]
    common = [name for name in linear_tensors if name in tuned.tensors]
    if linear_tensors and len(common) >= _LEAST_COMMON * len(linear_tensors):
        return
    sides: Mapping[str, tuple[Checkpoint, list[str]]] = {
        "TUNED": (tuned, only_base),
        "BASE": (base, only_tuned),
    }
    lacks = "; ".join(
        f"{side} ({shown(checkpoint.reference)}) lacks {', '.join(names[:_SHOWN])}"
        + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        for side, (checkpoint, names) in sides.items()
        if names
    )
    raise MismatchError(
        f"the two checkpoints share {len(common)} of {len(linear_tensors)} linear layers of BASE:"
        f" {lacks or 'BASE has no linear layer'}; give two checkpoints of one architecture"
    )

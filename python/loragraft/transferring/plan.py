"""What a transfer will do, as far as headers and the adapter tell."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from loragraft.architecture.modules import take_inventory
from loragraft.architecture.parts import split
from loragraft.architecture.selection import ALL_LINEAR, Selection, select
from loragraft.calibration.language_model import require_runtime
from loragraft.calibration.texts import read_texts
from loragraft.checkpoint import open_checkpoint
from loragraft.comparison.places import depth_of, main_stack
from loragraft.errors import MismatchError, NothingToAdaptError
from loragraft.resource_limits import check_open_files
from loragraft.tensor_reader import TensorReader
from loragraft.transferring import layers as maps
from loragraft.transferring.distilling.modules import carriers
from loragraft.transferring.methods import AUTO, DISTILL, WHOLE_METHODS
from loragraft.transferring.pairing import pair_modules
from loragraft.transferring.report import FilterReport
from loragraft.transferring.similar_layers import layer_similarity, same_widths
from loragraft.transferring.source_adapter import open_source, read_update
from loragraft.transferring.verdict import total_share
from loragraft.wording import counted, percent, shown

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from loragraft.architecture import Inventory, LinearModule
    from loragraft.checkpoint import Checkpoint
    from loragraft.transferring.options import TransferOptions
    from loragraft.transferring.pairing import Pair, Pairing
    from loragraft.transferring.source_adapter import SourceAdapter

LAYER_MAP: Final = "--layer-map"
#: Stands for a layer map where the method pairs neither layers nor modules.
NO_LAYERS: Final = "none"
_NO_PLACE: Final = "no counterpart"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A pair that a filter removed.

    Attributes:
        pair: The pair.
        why: Why.
    """

    pair: Pair
    why: str


@dataclass(frozen=True, slots=True)
class TransferPlan:
    """Everything that is decided before weights are read.

    Attributes:
        source: The adapter on its model.
        target: The model that is to have it.
        inventory: What the target consists of.
        options: What was asked for.
        layer_map: The rule that paired the layers, in words, or `NO_LAYERS`.
        layers: Layer of the target -> layer of the source.
        norms: ‖ΔW‖ of every module of the adapter, of every part where it is fused.
        pairs: What is to be transferred.
        left_out: Pairs that a filter removed.
        filters: What each filter removed.
    """

    source: SourceAdapter
    target: Checkpoint
    inventory: Inventory
    options: TransferOptions
    layer_map: str
    layers: Mapping[int, int]
    norms: Mapping[str, float]
    pairs: tuple[Pair, ...]
    left_out: tuple[LeftOut, ...]
    filters: tuple[FilterReport, ...]

    @property
    def is_paired(self) -> bool:
        """Whether modules of the source are paired with modules of the target."""
        return self.layer_map != NO_LAYERS

    def unpaired(self) -> TransferPlan:
        """Return this plan for a method that pairs nothing, and leaves nothing out for that."""
        return replace(self, layer_map=NO_LAYERS, layers={}, pairs=(), left_out=(), filters=())

    @property
    def total(self) -> float:
        """Squared norm of the whole adapter."""
        return math.fsum(norm * norm for norm in self.norms.values())

    @property
    def modules(self) -> tuple[tuple[Pair, ...], ...]:
        """The pairs, those of one module of the target together."""
        groups: dict[str, list[Pair]] = {}
        for pair in self.pairs:
            groups.setdefault(pair.target.whole.name, []).append(pair)
        return tuple(map(tuple, groups.values()))

    def share(self, pair: Pair) -> float:
        """Return the share of the adapter's squared norm that goes to a pair."""
        total = self.total
        norms = [self.norms[part.linear.name] for part in self.source.parts_of(pair.source)]
        squares = math.fsum(norm * norm for norm in norms)
        return squares / pair.divided / total if total > 0.0 else 0.0


def plan_transfer(
    adapter: str | os.PathLike[str],
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    options: TransferOptions,
) -> TransferPlan:
    """Read the headers of all files and the adapter, and decide what goes where.

    Nothing is written but cached subspaces, which a layer map by similarity asks for.

    Raises:
        LoragraftError: As `transfer`.
    """
    if options.calibration is not None:
        # What would stop the work is told before it, and before a dry run says that all is well.
        require_runtime()
        read_texts(options.calibration)
    origin = open_source(adapter, open_checkpoint(source))
    goal = open_checkpoint(target)
    check_open_files(2 * (len(origin.checkpoint.shards) + len(goal.shards)))
    inventory = take_inventory(goal)
    alone = TransferPlan(
        origin, goal, inventory, options, NO_LAYERS, {}, _norms(origin), (), (), ()
    )
    if options.method == DISTILL:
        carriers(alone)
        return alone
    return _paired(alone)


def _paired(alone: TransferPlan) -> TransferPlan:
    """Pair modules, and leave out what the selection does.

    Raises:
        MismatchError: There is no pair, or the layers cannot be paired.
        NothingToAdaptError: The selection leaves none.
    """
    origin, inventory, options = alone.source, alone.inventory, alone.options
    stacks = _stacks(origin, inventory)
    parts = split(inventory.linears, alone.target.config)
    rule, layers = _layer_map(origin, [part.linear for part in parts], stacks, options)
    apart = options.method in WHOLE_METHODS
    pairing = pair_modules(origin, parts, stacks, layers, apart=apart)
    if not pairing.pairs:
        if options.method == AUTO and options.calibration is not None:
            return alone
        raise _strangers(alone, pairing)
    chosen, why_not = select(inventory, options.selection)
    names = {linear.name for linear in chosen}
    left_out = tuple(
        LeftOut(pair, why_not.get(pair.target.whole.tensor, "not chosen"))
        for pair in pairing.pairs
        if pair.target.whole.name not in names
    )
    pairs = tuple(pair for pair in pairing.pairs if pair.target.whole.name in names)
    plan = replace(alone, layer_map=rule, layers=layers, pairs=pairs, left_out=left_out)
    filters = (*_unused(plan, pairing), *_selected(plan, left_out))
    if not pairs:
        raise _nothing(plan, filters)
    return replace(plan, filters=filters)


def _strangers(alone: TransferPlan, pairing: Pairing) -> MismatchError:
    origin = alone.source
    return MismatchError(
        f"{shown(alone.target.reference)} has no module for any of the"
        f" {len(origin.placements)} of {shown(origin.adapter.directory)}, such as"
        f" {next(iter(pairing.unused))}; choose a target with the same kinds of layers, or --method"
        f" {DISTILL}, which pairs none"
    )


def _norms(origin: SourceAdapter) -> dict[str, float]:
    with TensorReader() as reader:
        norms = {
            part.linear.name: read_update(reader, part).norm
            for parts in origin.parts.values()
            for part in parts
        }
    if not any(norms.values()):
        raise NothingToAdaptError(
            f"{shown(origin.adapter.directory)}: all of its updates are zero; there is nothing to"
            " transfer: choose an adapter that has been trained"
        )
    return norms


def _stacks(origin: SourceAdapter, inventory: Inventory) -> tuple[str, str]:
    """Return the stacks of blocks that are paired: where the adapter is, and the target's."""
    own = main_stack(placement.linear for placement in origin.placements.values())
    return own, main_stack(inventory.linears, own)


def _layer_map(
    origin: SourceAdapter,
    targets: Sequence[LinearModule],
    stacks: tuple[str, str],
    options: TransferOptions,
) -> tuple[str, dict[int, int]]:
    """Return the rule that applies, and what it gives."""
    depths = depth_of(origin.inventory.linears, stacks[0]), depth_of(targets, stacks[1])
    rule = options.layer_map
    if rule == "auto":
        rule = maps.IDENTITY
        if depths[0] != depths[1]:
            alike = same_widths(origin, targets, stacks)
            rule = maps.SIMILARITY if alike else maps.PROPORTIONAL
    if rule == maps.IDENTITY:
        return rule, maps.identity(*depths)
    if rule == maps.PROPORTIONAL:
        return rule, maps.proportional(*depths)
    if rule == maps.SIMILARITY:
        return rule, maps.order_preserving(
            layer_similarity(origin, targets, stacks, depths, options)
        )
    return f"file {rule}", maps.read_layer_map(rule, *depths)


def _unused(plan: TransferPlan, pairing: Pairing) -> list[FilterReport]:
    """Tell of the adapter's modules that nothing in the target takes."""
    groups: dict[str, list[str]] = {}
    for name, why in pairing.unused.items():
        option = LAYER_MAP if LAYER_MAP in why else _NO_PLACE
        groups.setdefault(option, []).append(name)
    total = plan.total
    owners = {part.linear.name: name for name, parts in plan.source.parts.items() for part in parts}
    return [
        FilterReport(
            f"{option} {plan.layer_map}" if option == LAYER_MAP else option,
            len({owners[name] for name in names}),
            total_share(plan.norms[name] ** 2 / total for name in names),
            pairing.unused[names[0]],
        )
        for option, names in groups.items()
    ]


def _selected(plan: TransferPlan, left_out: tuple[LeftOut, ...]) -> list[FilterReport]:
    """Tell of the pairs that each of the selection's options removed."""
    groups: dict[str, list[LeftOut]] = {}
    for one in left_out:
        groups.setdefault(one.why, []).append(one)
    return [
        FilterReport(
            _option(why, plan.options.selection),
            len({one.pair.target.whole.name for one in found}),
            total_share(plan.share(one.pair) for one in found),
            why,
        )
        for why, found in groups.items()
    ]


def _option(why: str, selection: Selection) -> str:
    if why == "excluded":
        return f"--exclude {','.join(selection.exclude)}"
    if why == "outside the chosen layers":
        return "--layers"
    return f"--target-modules {','.join(selection.target_modules or (ALL_LINEAR,))}"


def _nothing(plan: TransferPlan, filters: tuple[FilterReport, ...]) -> NothingToAdaptError:
    """Say which filter removed most, and where the adapter lives."""
    worst = max(filters, key=lambda one: one.share)
    kinds = sorted({placement.linear.kind for placement in plan.source.placements.values()})
    return NothingToAdaptError(
        f"nothing is left to transfer: {worst.option} removes"
        f" {counted(worst.modules, 'module')} with {percent(worst.share)} of the adapter's squared"
        f" norm ({worst.why}); the adapter lives in {', '.join(kinds)}: change that option"
    )

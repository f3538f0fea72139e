"""Modules of the target and the adapter's modules that they take their updates from."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from loragraft.architecture.roles import Role
from loragraft.comparison.places import Place, place_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from loragraft.adapter.placement import Placement
    from loragraft.architecture import LinearModule


class Pair(NamedTuple):
    """A module of the target and its source.

    Attributes:
        target: Where the update goes.
        source: Where it comes from.
        divided: How many modules of the target take it; each gets that part of it.
    """

    target: LinearModule
    source: Placement
    divided: int


class Pairing(NamedTuple):
    """Who takes what from whom.

    Attributes:
        pairs: In the order of the target.
        unused: Modules of the adapter that no module of the target takes -> why.
    """

    pairs: tuple[Pair, ...]
    unused: Mapping[str, str]


def pair_modules(
    placements: Mapping[str, Placement],
    targets: Iterable[LinearModule],
    stacks: tuple[str, str],
    layer_map: Mapping[int, int],
) -> Pairing:
    """Find the source of every module of the target.

    In mapped blocks modules of the same path within the block belong together, or of the same last
    component where either block has just one of it; outside of blocks those of the same name.

    Args:
        placements: The adapter's modules.
        targets: Linear layers of the target.
        stacks: The stacks of blocks of source and target.
        layer_map: Layer of the target -> layer of the source.
    """
    placed = {place_of(placement.linear): placement for placement in placements.values()}
    kinds = _by_kind(placement.linear for placement in placements.values())
    found: list[tuple[LinearModule, Placement]] = []
    listed = [linear for linear in targets if _can_be_adapted(linear)]
    own_kinds = _by_kind(listed)
    for target in listed:
        place = place_of(target)
        if place.stack == stacks[1] and place.layer >= 0:
            layer = layer_map.get(place.layer)
            if layer is None:
                continue
            place = Place(stacks[0], layer, place.tail)
        source = placed.get(place)
        if source is None and len(own_kinds[_kind_place(target)]) == 1:
            alike = kinds.get((place.stack, place.layer, target.kind), ())
            source = placements[alike[0]] if len(alike) == 1 else None
        if source is not None:
            found.append((target, source))
    takers = Counter(source.linear.name for _, source in found)
    pairs = tuple(Pair(t, s, takers[s.linear.name]) for t, s in found)
    reached = set(layer_map.values())
    unused = {
        name: _why_unused(placement.linear, stacks[0], reached)
        for name, placement in placements.items()
        if name not in takers
    }
    return Pairing(pairs, unused)


def _can_be_adapted(linear: LinearModule) -> bool:
    return not (
        linear.experts
        or linear.role in {Role.EXPERTS, Role.EMBEDDING}
        or linear.address.parameter
        or linear.address.swapped
    )


def _kind_place(linear: LinearModule) -> tuple[str, int, str]:
    place = place_of(linear)
    return place.stack, place.layer, linear.kind


def _by_kind(linears: Iterable[LinearModule]) -> dict[tuple[str, int, str], list[str]]:
    found: dict[tuple[str, int, str], list[str]] = {}
    for linear in linears:
        found.setdefault(_kind_place(linear), []).append(linear.name)
    return found


def _why_unused(linear: LinearModule, stack: str, reached: set[int]) -> str:
    place = place_of(linear)
    if place.stack == stack and place.layer >= 0 and place.layer not in reached:
        return "no layer of the target takes this layer (--layer-map)"
    return f"the target has no linear layer {place.tail} there"

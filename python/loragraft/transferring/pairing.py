"""Modules of the target and the adapter's modules that they take their updates from."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from loragraft.architecture.parts import lie_alike, whole
from loragraft.architecture.roles import Role
from loragraft.comparison.places import Place, place_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from loragraft.architecture import LinearModule
    from loragraft.architecture.parts import Part
    from loragraft.transferring.source_adapter import SourceAdapter, SourcePart


class Pair(NamedTuple):
    """A module of the target, or a part of a fused one, and its source.

    Attributes:
        target: Where the update goes.
        source: Where it comes from.
        divided: How many modules of the target take it; each gets that part of it.
    """

    target: Part
    source: SourcePart
    divided: int


class Pairing(NamedTuple):
    """Who takes what from whom.

    Attributes:
        pairs: In the order of the target, parts of one module together.
        unused: Modules of the adapter, or parts of fused ones, that nothing takes -> why.
    """

    pairs: tuple[Pair, ...]
    unused: Mapping[str, str]


def pair_modules(
    origin: SourceAdapter,
    targets: Iterable[Part],
    stacks: tuple[str, str],
    layer_map: Mapping[int, int],
    *,
    apart: bool = False,
) -> Pairing:
    """Find the source of every module of the target.

    In mapped blocks modules of the same path within the block belong together, or of the same last
    component where either block has just one of it; outside of blocks those of the same name.
    A fused layer is paired as a whole with one whose rows lie alike, or where nobody knows how they
    lie on one side; else part by part, with other parts or with layers of their own.

    Args:
        origin: The adapter on its model.
        targets: Linear layers of the target, fused ones taken apart.
        stacks: The stacks of blocks of source and target.
        layer_map: Layer of the target -> layer of the source.
        apart: Pair part by part wherever the parts are known.
    """
    modules: dict[str, list[Part]] = {}
    for part in targets:
        if _can_be_adapted(part.whole):
            modules.setdefault(part.whole.name, []).append(part)
    search = _Search(origin, modules.values(), stacks, layer_map)
    found = [
        pair for parts in modules.values() for pair in _sources(parts, search, origin, apart=apart)
    ]
    takers = Counter(part.linear.name for _, one in found for part in origin.parts_of(one))
    reached = set(layer_map.values())
    return Pairing(
        tuple(Pair(t, s, takers[origin.parts_of(s)[0].linear.name]) for t, s in found),
        {
            part.linear.name: _why_unused(part.linear, stacks[0], reached)
            for parts in origin.parts.values()
            for part in parts
            if part.linear.name not in takers
        },
    )


class _Search:
    """Finds what a layer of the target, or a part of one, takes its update from."""

    def __init__(
        self,
        origin: SourceAdapter,
        modules: Collection[Sequence[Part]],
        stacks: tuple[str, str],
        layer_map: Mapping[int, int],
    ) -> None:
        sources = origin.all_parts
        self._placed = {place_of(one.linear): one for one in sources}
        self._kinds: dict[tuple[str, int, str], list[SourcePart]] = {}
        for one in sources:
            self._kinds.setdefault(_kind_place(one.linear), []).append(one)
        listed = [part for parts in modules for part in parts]
        layers = [parts[0].whole for parts in modules if not parts[0].is_whole]
        views = (*layers, *(part.linear for part in listed))
        self._alike = Counter(_kind_place(linear) for linear in views)
        self._stacks = stacks
        self._layer_map = layer_map

    def source(self, target: Part) -> SourcePart | None:
        """Return the source of a layer, None where there is none."""
        place = place_of(target.linear)
        if place.stack == self._stacks[1] and place.layer >= 0:
            layer = self._layer_map.get(place.layer)
            if layer is None:
                return None
            place = Place(self._stacks[0], layer, place.tail)
        source = self._placed.get(place)
        if source is None and self._alike[_kind_place(target.linear)] == 1:
            alike = self._kinds.get((place.stack, place.layer, target.linear.kind), ())
            source = alike[0] if len(alike) == 1 else None
        return source


def _sources(
    parts: Sequence[Part], search: _Search, origin: SourceAdapter, *, apart: bool
) -> list[tuple[Part, SourcePart]]:
    """Return what a layer of the target takes, as a whole or part by part."""
    layer = whole(parts[0].whole)
    source = search.source(layer)
    if source is not None:
        others = [one.part for one in origin.parts_of(source)]
        if lie_alike(parts, others) and not (apart and len(parts) == len(others) > 1):
            return [(layer, source)]
    pairs = ((part, search.source(part)) for part in parts)
    return [(part, one) for part, one in pairs if one is not None]


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


def _why_unused(linear: LinearModule, stack: str, reached: set[int]) -> str:
    place = place_of(linear)
    if place.stack == stack and place.layer >= 0 and place.layer not in reached:
        return "no layer of the target takes this layer (--layer-map)"
    return f"the target has no linear layer {place.tail} there"

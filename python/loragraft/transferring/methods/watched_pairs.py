"""Pairs of modules with what both models compute there; run as memory allows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from loragraft.architecture.parts import split
from loragraft.calibration.collection import ModuleRows, collect
from loragraft.comparison.places import place_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from loragraft.architecture import LinearModule
    from loragraft.architecture.parts import Part
    from loragraft.calibration.sample import Sample
    from loragraft.calibration.sample import Side as Read
    from loragraft.transferring.methods.method import Models
    from loragraft.transferring.stream.side import Side

    Found = dict[str, ModuleRows | str]

#: Bytes of rows that are held at once.
PLACES_BYTES: Final = 1 << 30
#: Who reads the neurons that a module writes.
_READERS: Final = {
    "gate_proj": "down_proj",
    "up_proj": "down_proj",
    "c_fc": "c_proj",
    "fc1": "fc2",
    "fc_in": "fc_out",
    "dense_h_to_4h": "dense_4h_to_h",
}
_NONE: Final = ModuleRows(np.zeros((0, 0), np.float32), np.zeros((0, 0), np.float32))


class WatchedSide(NamedTuple):
    """One side of a pair.

    Attributes:
        part: The layer, or the part of a fused one.
        rows: What the layer reads and writes.
        readers: The same of the module that reads its neurons; why not, or None where there is
            none.
    """

    part: Part
    rows: ModuleRows
    readers: ModuleRows | str | None


class WatchedPair(NamedTuple):
    """A pair of modules.

    Attributes:
        source: The source.
        target: The target.
        is_planned: It is one of the transfer, not of a control.
        why: Why one of them has no rows; empty where both have.
    """

    source: WatchedSide
    target: WatchedSide
    is_planned: bool
    why: str


class _Names(NamedTuple):
    """A pair by the names of its layers or parts."""

    source: str
    target: str


class WatchedPairs:
    """Runs both models for as many pairs at once as memory allows, in the order of the target."""

    def __init__(self, models: Models, sample: Sample) -> None:
        """Prepare; nothing is run.

        Args:
            models: Both models and the pairs to come.
            sample: What they read, and where they are looked at.
        """
        self._sample = sample
        self._parts = _parts(models.source), _parts(models.target)
        self._sources = {one.linear.name: one.part for one in models.adapter.all_parts}
        self._targets = {pair.target.linear.name: pair.target for pair in models.pairs}
        self._order = [_Names(p.source.linear.name, p.target.linear.name) for p in models.pairs]
        self._held: tuple[Found, Found] = {}, {}

    def find(self, source: LinearModule, target: LinearModule) -> WatchedPair:
        """Return a pair with its rows; runs both models where they are not held.

        Raises:
            NonFiniteError: NaN or Inf among them.
        """
        names = _Names(source.name, target.name)
        parts = self._sources[names.source], self._targets[names.target]
        wholes = [part.whole.name for part in parts]
        if any(one not in held for one, held in zip(wholes, self._held, strict=True)):
            self._run(names)
        found = [held[one] for one, held in zip(wholes, self._held, strict=True)]
        why = next((one for one in found if isinstance(one, str)), "")
        sides = [
            WatchedSide(
                part,
                _NONE if isinstance(rows, str) else rows,
                held.get(_reader(part, known) or ""),
            )
            for part, rows, held, known in zip(parts, found, self._held, self._parts, strict=True)
        ]
        return WatchedPair(sides[0], sides[1], names in self._order, why)

    def _run(self, first: _Names) -> None:
        # Before new rows come the old ones go, or both would be held.
        self._held = {}, {}
        wanted: tuple[dict[str, tuple[int, int]], ...] = {}, {}
        for pair in self._following(first):
            parts = self._sources[pair.source], self._targets[pair.target]
            more = [
                one | _wanted(part, known)
                for one, part, known in zip(wanted, parts, self._parts, strict=True)
            ]
            size = sum(sum(shape) for one in more for shape in one.values())
            if wanted[0] and 4 * size * len(self._sample.held) > PLACES_BYTES:
                break
            wanted = tuple(more)
        sides = self._sample.source, self._sample.target
        own, other = (_collected(side, shapes) for side, shapes in zip(sides, wanted, strict=True))
        self._held = own, other

    def _following(self, first: _Names) -> Iterator[_Names]:
        """Yield a pair and those that will be asked for after it."""
        if first in self._order:
            yield from self._order[self._order.index(first) :]
            return
        # A control takes other layers of the source: then all of this layer of the target do.
        yield first
        layers = self._sources[first.source].linear.layer, self._targets[first.target].linear.layer
        places = {place_of(part.linear): name for name, part in self._sources.items()}
        for pair in self._order:
            place = place_of(self._sources[pair.source].linear)
            moved = places.get(place._replace(layer=-1 if layers[0] is None else layers[0]))
            if moved is not None and self._targets[pair.target].linear.layer == layers[1]:
                yield _Names(moved, pair.target)


def numbers_of(models: Models) -> int:
    """Return how many numbers of a place are held for the largest pair."""
    known = _parts(models.source), _parts(models.target)
    return max(
        sum(
            sum(shape)
            for part, parts in zip((pair.source.part, pair.target), known, strict=True)
            for shape in _wanted(part, parts).values()
        )
        for pair in models.pairs
    )


def _parts(side: Side) -> dict[str, Part]:
    parts: Sequence[Part] = split(side.inventory.linears, side.checkpoint.config)
    return {part.linear.name: part for part in parts}


def _wanted(part: Part, known: dict[str, Part]) -> dict[str, tuple[int, int]]:
    """Return the shapes of the modules that are looked at for a side of a pair."""
    reader = _reader(part, known)
    wholes = [part.whole] if reader is None else [part.whole, known[reader].whole]
    return {whole.name: whole.shape for whole in wholes}


def _reader(part: Part, known: dict[str, Part]) -> str | None:
    """Return the name of the module that reads what a part writes, if there is such a one."""
    kind = part.linear.kind
    name = part.linear.name.removesuffix(kind) + _READERS.get(kind, "")
    reader = known.get(name)
    if reader is None or reader.linear.shape[1] != part.linear.shape[0]:
        return None
    return reader.whole.name


def _collected(read: Read, shapes: dict[str, tuple[int, int]]) -> Found:
    return collect(read.model, read.texts, read.places, shapes)

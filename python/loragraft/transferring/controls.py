"""Adapters that a transfer must beat before anybody should believe in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from loragraft.comparison.places import place_of
from loragraft.errors import NothingToAdaptError
from loragraft.transferring.factors import cast
from loragraft.transferring.methods import DISTILL, METHODS, PADDED_COPY
from loragraft.transferring.pairing import Pair
from loragraft.transferring.update import Update, balanced
from loragraft.transferring.verdict import root_sum

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from loragraft.transferring.factors import WrittenFactors
    from loragraft.transferring.plan import TransferPlan
    from loragraft.transferring.report import TransferredModule
    from loragraft.transferring.work import Made, Worker

RANDOM: Final = "random"
SHUFFLED: Final = "shuffled"
CONTROLS: Final = (PADDED_COPY, RANDOM, SHUFFLED)
_RANDOM: Final = "random factors with the rank and the norm of every transferred module"


@dataclass(frozen=True, slots=True)
class Control:
    """One control.

    Attributes:
        name: Also the end of its directory's name.
        what: What it is, in words.
        factors: Its modules.
    """

    name: str
    what: str
    factors: tuple[WrittenFactors, ...]


class _Kept(NamedTuple):
    """A module that was written: its pairs with their rows, and its factors."""

    pairs: Sequence[tuple[Pair, TransferredModule]]
    factors: WrittenFactors


def controls_of(method: str) -> tuple[str, ...]:
    """Return the controls that a method has: only such as pair modules have all of them."""
    return (RANDOM,) if method == DISTILL else CONTROLS


def random_alone(plan: TransferPlan, made: Sequence[Made]) -> tuple[Control, ...]:
    """Make the control of a method that pairs no modules.

    Raises:
        NonFiniteError: Its factors leave the range of float32.
    """
    written = [(one.factors, one.rows[0].delta_norm) for one in made if one.factors is not None]
    return (Control(RANDOM, _RANDOM, tuple(_random(plan, written))),)


def make_controls(plan: TransferPlan, worker: Worker, made: Sequence[Made]) -> tuple[Control, ...]:
    """Make the controls of a transfer, for the modules that it kept.

    Raises:
        NothingToAdaptError: One of them has no module.
        NonFiniteError: NaN or Inf among weights or factors.
        FormatError: A file cannot be read.
    """
    kept = [
        _Kept(
            [(pair, row) for pair, row in zip(pairs, one.rows, strict=True) if row.rank],
            one.factors,
        )
        for pairs, one in zip(plan.modules, made, strict=True)
        if one.factors is not None
    ]
    controls = (
        Control(
            PADDED_COPY,
            "the source's factors cut off or filled up with zeros to the target's shape",
            tuple(_padded(worker, kept)),
        ),
        Control(
            RANDOM,
            _RANDOM,
            tuple(
                _random(
                    plan,
                    [
                        (one.factors, root_sum([row.delta_norm for _, row in one.pairs]))
                        for one in kept
                    ],
                )
            ),
        ),
        Control(
            SHUFFLED,
            "the same transfer with the source's layers in random order",
            tuple(_shuffled(plan, worker, kept)),
        ),
    )
    for control in controls:
        if not control.factors:
            raise NothingToAdaptError(
                f"the control {control.name} has no module ({control.what}): transfer without"
                " --controls"
            )
    return controls


def _padded(worker: Worker, kept: Sequence[_Kept]) -> Iterator[WrittenFactors]:
    method = METHODS[PADDED_COPY]
    for one in kept:
        pieces = []
        for pair, row in one.pairs:
            bases = worker.evidence(pair, row.share).bases
            pieces.append(worker.make(pair, method, bases, row, ""))
        control = worker.join(pieces).factors
        if control is not None:
            yield control


def _random(
    plan: TransferPlan, kept: Sequence[tuple[WrittenFactors, float]]
) -> Iterator[WrittenFactors]:
    generator = np.random.default_rng(plan.options.seed)
    for factors, norm in kept:
        out, into = factors.target.shape
        drawn = Update(
            generator.standard_normal((out, factors.rank)),
            generator.standard_normal((factors.rank, into)),
        )
        update = balanced(drawn, factors.rank).update
        yield cast(
            factors.target,
            update.times(norm / update.norm),
            factors.alpha / factors.rank,
            factors.dtype,
        )


def _shuffled(
    plan: TransferPlan, worker: Worker, kept: Sequence[_Kept]
) -> Iterator[WrittenFactors]:
    """Transfer with sources of other layers, wherever the adapter has such a module."""
    sources = {place_of(source.linear): source for source in plan.source.all_parts}
    layers = sorted({place.layer for place in sources if place.layer >= 0})
    order = _derangement(len(layers), plan.options.seed)
    other = {layer: layers[order[position]] for position, layer in enumerate(layers)}
    for one in kept:
        pieces = []
        for pair, row in one.pairs:
            place = place_of(pair.source.linear)
            source = sources.get(place._replace(layer=other.get(place.layer, -1)))
            if source is None:
                continue
            swapped = Pair(pair.target, source, pair.divided)
            bases = worker.evidence(swapped, row.share).bases
            method = worker.method(row.method, swapped)
            pieces.append(worker.make(swapped, method, bases, row, ""))
        control = worker.join(pieces).factors
        if control is not None:
            yield control


def _derangement(count: int, seed: int) -> list[int]:
    """Return a random order in which nothing stays in its place, where there are two or more."""
    generator = np.random.default_rng(seed)
    # Sattolo's algorithm: a single cycle.
    order = list(range(count))
    for last in range(count - 1, 0, -1):
        place = int(generator.integers(last))
        order[last], order[place] = order[place], order[last]
    return order

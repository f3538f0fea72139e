"""How similar every layer of the source is to every layer of the target."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from loragraft.architecture.parts import split
from loragraft.comparison.places import place_of
from loragraft.errors import MismatchError
from loragraft.subspaces.cache import SubspaceCache, cache_directory
from loragraft.subspaces.chance import mean_excess, overlap_of
from loragraft.tensor_reader import TensorReader
from loragraft.wording import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from loragraft.architecture import LinearModule
    from loragraft.transferring.options import TransferOptions
    from loragraft.transferring.source_adapter import SourceAdapter


def same_widths(
    origin: SourceAdapter, targets: Sequence[LinearModule], stacks: tuple[str, str]
) -> bool:
    """Say whether some kind of module has one width on both sides, output or input.

    Args:
        origin: The adapter on its model.
        targets: Linear layers of the target, fused ones taken apart.
        stacks: The stacks of blocks of source and target.
    """
    ours, theirs = _both(origin, targets, stacks)
    return any(
        own == other
        for tail in ours.keys() & theirs.keys()
        for own, other in zip(_shape(ours[tail]), _shape(theirs[tail]), strict=True)
    )


def layer_similarity(
    origin: SourceAdapter,
    targets: Sequence[LinearModule],
    stacks: tuple[str, str],
    depths: tuple[int, int],
    options: TransferOptions,
) -> NDArray[np.float64]:
    """Return the mean excess similarity of every source layer with every target layer.

    Over the kinds of modules that the adapter changes, one kind at a time: the subspaces of all
    source layers of that kind are in memory at once.

    Returns:
        (L_s, L_t); 0, which is chance, where nothing is known of a pair.

    Raises:
        MismatchError: No kind of module has the same width on both sides.
        NonFiniteError: NaN or Inf in a weight.
        FormatError: A file cannot be read.
    """
    if not same_widths(origin, targets, stacks):
        raise MismatchError(
            f"--layer-map similarity: {shown(origin.checkpoint.reference)} and the target have no"
            " width in common, so the similarity of their layers is not defined; use --layer-map"
            " proportional"
        )
    ours, theirs = _both(origin, targets, stacks)
    total = np.zeros(depths)
    counts = np.zeros(depths)
    cache = SubspaceCache(cache_directory() if options.cache else None)
    with TensorReader() as reader, options.finder(reader, cache) as finder:
        tails = sorted(ours.keys() & theirs.keys())
        finder.expect(
            one for tail in tails for side in (ours, theirs) for one in side[tail].values()
        )
        for tail in tails:
            bases = {layer: finder.find(linear) for layer, linear in ours[tail].items()}
            for target, linear in theirs[tail].items():
                other = finder.find(linear)
                for source, own in bases.items():
                    rank = min(own.rank, other.rank)
                    a, b = own.leading(rank), other.leading(rank)
                    excess = mean_excess(overlap_of(a.U, b.U), overlap_of(a.V, b.V))
                    if excess is not None:
                        total[source, target] += excess
                        counts[source, target] += 1
    return np.divide(total, counts, out=np.zeros(depths), where=counts > 0)


def _both(
    origin: SourceAdapter, targets: Sequence[LinearModule], stacks: tuple[str, str]
) -> tuple[dict[str, dict[int, LinearModule]], dict[str, dict[int, LinearModule]]]:
    """Return the modules of either side by path within the block, and layer."""
    wanted = {place_of(one.linear).tail for parts in origin.parts.values() for one in parts}
    own = split(origin.inventory.linears, origin.checkpoint.config)
    return (
        _by_tail((part.linear for part in own), stacks[0], wanted),
        _by_tail(targets, stacks[1], wanted),
    )


def _by_tail(
    linears: Iterable[LinearModule], stack: str, wanted: set[str]
) -> dict[str, dict[int, LinearModule]]:
    found: dict[str, dict[int, LinearModule]] = {}
    for linear in linears:
        place = place_of(linear)
        if place.stack == stack and place.layer >= 0 and place.tail in wanted:
            found.setdefault(place.tail, {})[place.layer] = linear
    return found


def _shape(of: dict[int, LinearModule]) -> tuple[int, int]:
    return next(iter(of.values())).shape

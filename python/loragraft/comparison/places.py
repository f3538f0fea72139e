"""Where the modules of a model sit among its blocks."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from loragraft.architecture import LinearModule

_WRAPPER: Final = "language_model."


class Place(NamedTuple):
    """Where a module sits among the blocks.

    Attributes:
        stack: Path of the list of blocks; empty outside of blocks.
        layer: Number of the block, -1 outside.
        tail: Path within the block; the whole path outside.
    """

    stack: str
    layer: int
    tail: str


def place_of(linear: LinearModule) -> Place:
    """Return where a module sits among the blocks."""
    if linear.layer is not None:
        match = re.search(rf"(?:^|\.){linear.layer}\.", linear.name)
        if match is not None:
            return Place(linear.name[: match.start()], linear.layer, linear.name[match.end() :])
    return Place("", -1, linear.name)


def main_stack(linears: Iterable[LinearModule], like: str = "") -> str:
    """Return the stack of blocks that is paired: the one called like another, or the largest."""
    counts = Counter(place.stack for place in map(place_of, linears) if place.layer >= 0)
    for stack in counts:
        if like and stack.replace(_WRAPPER, "") == like.replace(_WRAPPER, ""):
            return stack
    return counts.most_common(1)[0][0] if counts else ""


def depth_of(linears: Iterable[LinearModule], stack: str) -> int:
    """Return the number of blocks of a stack."""
    places = map(place_of, linears)
    return max((place.layer + 1 for place in places if place.stack == stack), default=0)

"""Places of two tokenizations of the same text that end at the same character."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from loragraft.calibration.language_model import Place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loragraft.calibration.language_model import Tokens


class PairedPlaces(NamedTuple):
    """Places of a source and of a target that have read the same characters.

    Attributes:
        source: Places in the source's texts.
        target: Places in the target's, in the same order.
    """

    source: tuple[Place, ...]
    target: tuple[Place, ...]


def paired_places(
    source: Sequence[Tokens], target: Sequence[Tokens], starts: Sequence[int]
) -> PairedPlaces:
    """Pair the tokens of two models by the characters they end at.

    Where several tokens of a text end at the same character, such as the bytes of one, the last
    one has read all of it.

    Args:
        source: The texts as the source cuts them.
        target: The same texts as the target cuts them.
        starts: Characters of each text that a place must have read, at least one.
    """
    own, other = [], []
    for text, (first, second) in enumerate(zip(source, target, strict=True)):
        known = {end: token for token, end in enumerate(first.ends)}
        reached = {end: token for token, end in enumerate(second.ends)}
        for end, token in reached.items():
            if end in known and end >= max(starts[text], 1):
                own.append(Place(text, known[end]))
                other.append(Place(text, token))
    return PairedPlaces(tuple(own), tuple(other))

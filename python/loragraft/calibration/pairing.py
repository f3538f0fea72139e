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

    def evenly(self, most: int) -> PairedPlaces:
        """Return so many of them at most, evenly spaced."""
        count = len(self.source)
        if count <= most:
            return self
        kept = [number * count // most for number in range(most)]
        return PairedPlaces(*(tuple(side[one] for one in kept) for side in self))


def paired_places(
    source: Sequence[Tokens], target: Sequence[Tokens], starts: Sequence[int] | None = None
) -> PairedPlaces:
    """Pair the tokens of two models by the characters they end at.

    Where several tokens of a text end at the same character, such as the bytes of one, the last
    one has read all of it. Tokens that are no part of the text are never paired.

    Args:
        source: The texts as the source cuts them.
        target: The same texts as the target cuts them.
        starts: Characters of each text that a place must have read; None for at least one.
    """
    own: list[Place] = []
    other: list[Place] = []
    for text, (first, second) in enumerate(zip(source, target, strict=True)):
        least = max(starts[text] if starts is not None else 0, 1)
        known = {end: token for token, end in enumerate(first.ends)}
        reached = {end: token for token, end in enumerate(second.ends)}
        for end, token in reached.items():
            if end in known and end >= least:
                own.append(Place(text, known[end]))
                other.append(Place(text, token))
    return PairedPlaces(tuple(own), tuple(other))

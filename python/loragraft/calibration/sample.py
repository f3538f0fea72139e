"""Texts as two models cut them, and the places at which both are looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from loragraft.calibration.pairing import paired_places
from loragraft.calibration.regression import every_fifth
from loragraft.errors import MismatchError
from loragraft.wording import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from loragraft.calibration.language_model import LanguageModel, Place, Tokens
    from loragraft.calibration.texts import Text

#: Fewer places tell nothing, held out or not.
_LEAST: Final = 10


class Side(NamedTuple):
    """The texts as one model cuts them.

    Attributes:
        model: The model.
        texts: Every text.
        places: Where it is looked at.
    """

    model: LanguageModel
    texts: tuple[Tokens, ...]
    places: tuple[Place, ...]

    @property
    def tokens(self) -> list[int]:
        """Number of the token at every place."""
        return [self.texts[place.text].ids[place.token] for place in self.places]


class Sample(NamedTuple):
    """Places of two models that have read the same characters.

    Attributes:
        source: The source.
        target: The target, its places in the same order.
        held: Which places are held out: those of every fifth text.
        paired: How many places there are in all, of which these were chosen.
    """

    source: Side
    target: Side
    held: NDArray[np.bool_]
    paired: int


def take_sample(
    source: LanguageModel, target: LanguageModel, texts: Sequence[Text], most: int
) -> Sample:
    """Cut the texts and choose places, evenly among those where tokens of both end together.

    Args:
        source: The source.
        target: The target.
        texts: What both read.
        most: Places at most.

    Raises:
        MismatchError: There are too few.
    """
    own, other = (tuple(model.tokens(text.whole) for text in texts) for model in (source, target))
    paired = paired_places(own, other)
    count = len(paired.source)
    if count < _LEAST:
        raise MismatchError(
            f"tokens of source and target end at the same character at {counted(count, 'place')} of"
            f" {counted(len(texts), 'calibration text')}, at least {_LEAST} are needed: give more"
            " texts, or longer ones"
        )
    kept = paired.evenly(most)
    return Sample(
        Side(source, own, kept.source), Side(target, other, kept.target), _held(kept.target), count
    )


def _held(places: Sequence[Place]) -> NDArray[np.bool_]:
    """Hold out whole texts, since neighbours resemble each other; places where texts are few."""
    _, order = np.unique([place.text for place in places], return_inverse=True)
    texts = int(order.max()) + 1
    return every_fifth(texts)[order] if texts >= _LEAST else every_fifth(len(places))

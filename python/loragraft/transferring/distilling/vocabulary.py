"""Tokens of the target, and the tokens with which the source would begin to write them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from loragraft.transferring.stream.tokens import TOKENIZER, read_tokens

if TYPE_CHECKING:
    from loragraft.calibration.language_model import LanguageModel
    from loragraft.checkpoint import Checkpoint

    Ids = np.ndarray[tuple[int], np.dtype[np.intp]]

NOBODY: Final = -1


class FirstTokens(NamedTuple):
    """For every token of the target the source's token that its text begins with.

    Attributes:
        first: (target's tokens,); `NOBODY` where the source cannot write it.
        shared: How many are the same token on both sides.
    """

    first: Ids
    shared: int

    @property
    def known(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Which tokens the source can begin to write."""
        return np.not_equal(self.first, NOBODY)


def first_tokens(
    source: LanguageModel, target: LanguageModel, sides: tuple[Checkpoint, Checkpoint], size: int
) -> FirstTokens:
    """Find the source's token for every token of the target.

    Tokens of the same bytes are the same token, and so are those that end a text. Others have a
    text, which the source's tokenizer cuts.

    Args:
        source: The source.
        target: The target.
        sides: Their files.
        size: Tokens that the target's head knows.

    Raises:
        FormatError: A tokenizer.json cannot be read.
    """
    own, other = (read_tokens(side.directory / TOKENIZER) for side in sides)
    first = np.full(size, NOBODY, np.intp)
    texts: dict[int, str] = {}
    for content, row in other.items():
        if row >= size:
            continue
        if content in own:
            first[row] = own[content]
            continue
        try:
            texts[row] = content.decode()
        except UnicodeDecodeError:
            continue
    shared = int((first != NOBODY).sum())
    cut = (
        source.tokenizer(list(texts.values()), add_special_tokens=False).input_ids if texts else []
    )
    for row, ids in zip(texts, cut, strict=True):
        if ids:
            first[row] = ids[0]
    first[target.end] = source.end
    return FirstTokens(first, shared)

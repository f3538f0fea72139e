"""What the tokens of two vocabularies have in common: the shared tokens that they begin with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from loragraft.transferring.stream.tokens import TOKENIZER, read_tokens

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loragraft.calibration.language_model import LanguageModel
    from loragraft.checkpoint import Checkpoint

    Ids = np.ndarray[tuple[int], np.dtype[np.intp]]

NOBODY: Final = -1
#: Times a beginning may itself have to be begun by the other vocabulary.
_DEPTH: Final = 8
#: Stands for the token that ends a text, whatever its name.
_END: Final = b"\xff end"


class Beginnings(NamedTuple):
    """For every token of two vocabularies a token of both that its text begins with.

    Attributes:
        source: (source's tokens,), numbers of shared tokens; `NOBODY` where there is none.
        target: (target's tokens,), the same.
        shared: How many tokens both have.
    """

    source: Ids
    target: Ids
    shared: int


def beginnings(
    source: LanguageModel,
    target: LanguageModel,
    sides: tuple[Checkpoint, Checkpoint],
    sizes: tuple[int, int],
) -> Beginnings:
    """Find for every token of either side how the other would begin to write it.

    Tokens of the same bytes are the same token, and so are those that end a text. A token of one
    side alone has a text, which the other's tokenizer cuts; where its first token is again of one
    side alone, that one's text is cut in turn.

    Args:
        source: The source.
        target: The target.
        sides: Their files.
        sizes: Tokens that their heads know.

    Raises:
        FormatError: A tokenizer.json cannot be read.
    """
    models = (source, target)
    tokens = [
        _known(read_tokens(side.directory / TOKENIZER), model.end, size)
        for side, model, size in zip(sides, models, sizes, strict=True)
    ]
    shared = {
        content: number
        for number, content in enumerate(sorted(set.intersection(*map(set, tokens))))
    }
    alone = [[content for content in own if content not in shared] for own in tokens]
    # What one side has alone is begun by the other.
    nexts = [
        _firsts(model, own, texts)
        for model, own, texts in zip(models[::-1], tokens[::-1], alone, strict=True)
    ]
    roots = [
        _roots(own, size, shared, {**nexts[1], **nexts[0]})
        for own, size in zip(tokens, sizes, strict=True)
    ]
    return Beginnings(roots[0], roots[1], len(shared))


def _known(tokens: Mapping[bytes, int], end: int, size: int) -> dict[bytes, int]:
    """Return tokens that the head knows, the one that ends a text under a name of its own."""
    found = {content: row for content, row in tokens.items() if row < size and row != end}
    return {**found, _END: end}


def _firsts(
    model: LanguageModel, own: Mapping[bytes, int], texts: list[bytes]
) -> dict[bytes, bytes]:
    """Return the first token with which a model writes each text that it can write."""
    contents = {row: content for content, row in own.items()}
    told = {}
    for content in texts:
        try:
            told[content] = content.decode()
        except UnicodeDecodeError:
            continue
    cut = model.tokenizer(list(told.values()), add_special_tokens=False).input_ids if told else []
    found = {}
    for content, ids in zip(told, cut, strict=True):
        first = contents.get(ids[0]) if ids else None
        # A tokenizer that adds or loses characters does not begin this text.
        if first is not None and content.startswith(first):
            found[content] = first
    return found


def _roots(
    own: Mapping[bytes, int], size: int, shared: Mapping[bytes, int], nexts: Mapping[bytes, bytes]
) -> Ids:
    roots = np.full(size, NOBODY, np.intp)
    for content, row in own.items():
        at: bytes | None = content
        for _ in range(_DEPTH):
            if at is None or at in shared:
                break
            at = nexts.get(at)
        if at is not None and at in shared:
            roots[row] = shared[at]
    return roots

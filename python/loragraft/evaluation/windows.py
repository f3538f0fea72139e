"""A text cut into windows: what a model reads at once, and what it is to foretell of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from loragraft.errors import FormatError, MismatchError
from loragraft.evaluation.vocabulary import common_vocabulary
from loragraft.wording import counted

if TYPE_CHECKING:
    from loragraft.evaluation.subject import Subject
    from loragraft.evaluation.text import FidelityText
    from loragraft.evaluation.vocabulary import Vocabulary

#: Tokens read at once: short enough that a few pages give windows to resample.
WINDOW: Final = 256
_FEWEST: Final = 2


class Window(NamedTuple):
    """Tokens that are read at once.

    Attributes:
        ids: Numbers of the tokens, with those that the tokenizer puts before every text.
        first: Where the tokens begin that are foretold, at least 1.
    """

    ids: tuple[int, ...]
    first: int

    @property
    def tokens(self) -> int:
        """Tokens that are foretold."""
        return len(self.ids) - self.first


def cut_windows(
    base: Subject,
    tuned: Subject,
    text: FidelityText,
    longest: int = WINDOW,
    vocabulary: Vocabulary | None = None,
) -> tuple[Window, ...]:
    """Cut a text into windows that follow each other without overlap.

    What the tokenizer puts before a text stands before every window; where it puts nothing, the
    first token of a window is foretold by nothing and is read only.

    Args:
        base: The model whose tokenizer cuts.
        tuned: Another that must cut alike, but for tokens that its tokenizer adds.
        text: All of it is read.
        longest: Tokens of a window at most; fewer where a model reads fewer.
        vocabulary: What the models have in common, where that is known.

    Raises:
        MismatchError: The tokenizers differ, or know tokens that a head does not.
        FormatError: The text is too short.
    """
    common = vocabulary or common_vocabulary(base, tuned)
    tokenizer = base.language_model.tokenizer
    ids = _ids(tokenizer, text.text)
    _require_alike(tokenizer, tuned.language_model.tokenizer, text, common, ids)
    if len(ids) < _FEWEST:
        raise FormatError(
            f"{text.name}: has {counted(len(ids), 'token')}, expected at least {_FEWEST}: give some"
            " pages of what the tuned model is for"
        )
    before = _before(tokenizer(text.text, verbose=False)["input_ids"], ids)
    highest = max((*before, *ids))
    if highest >= common.size:
        raise MismatchError(
            f"{text.name}: token {highest} of it is beyond the {common.size} that both models know"
        )
    most = min(longest, base.language_model.longest, tuned.language_model.longest)
    return tuple(_windows(ids, before, max(most - len(before), _FEWEST)))


def _require_alike(
    base: Any, tuned: Any, text: FidelityText, vocabulary: Vocabulary, ids: tuple[int, ...]
) -> None:
    """Refuse a tokenizer that cuts a text otherwise for more than the tokens that it adds.

    Raises:
        MismatchError: It is one.
    """
    if _ids(tuned, text.text) == ids:
        return
    rest = vocabulary.without_added(text.text)
    if rest == text.text or _ids(base, rest) != _ids(tuned, rest):
        raise MismatchError(
            f"{text.name}: the tuned model's tokenizer cuts it otherwise than the base's, though"
            " it knows the base's tokens by the same numbers: give a model tuned from MODEL"
        )


def _windows(ids: tuple[int, ...], before: tuple[int, ...], step: int) -> list[Window]:
    cut = [ids[start : start + step] for start in range(0, len(ids), step)]
    found = [Window((*before, *part), max(len(before), 1)) for part in cut]
    return [window for window in found if window.tokens > 0]


def _ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _before(whole: list[int], ids: tuple[int, ...]) -> tuple[int, ...]:
    """Return the tokens that a tokenizer put before those of the text itself."""
    for start in range(len(whole) - len(ids) + 1):
        if tuple(whole[start : start + len(ids)]) == ids:
            return tuple(whole[:start])
    return ()

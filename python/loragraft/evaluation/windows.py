"""A text cut into windows: what a model reads at once, and what it is to foretell of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from loragraft.errors import FormatError, MismatchError
from loragraft.wording import counted, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loragraft.evaluation.subject import Subject
    from loragraft.evaluation.text import FidelityText

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
    base: Subject, tuned: Subject, text: FidelityText, longest: int = WINDOW
) -> tuple[Window, ...]:
    """Cut a text into windows that follow each other without overlap.

    What the tokenizer puts before a text stands before every window; where it puts nothing, the
    first token of a window is foretold by nothing and is read only.

    Args:
        base: The model whose tokenizer cuts.
        tuned: Another that must cut alike.
        text: All of it is read.
        longest: Tokens of a window at most; fewer where a model reads fewer.

    Raises:
        MismatchError: The tokenizers differ, or know tokens that a head does not.
        FormatError: The text is too short.
    """
    tokenizer = base.language_model.tokenizer
    _require_same(tokenizer.get_vocab(), tuned.language_model.tokenizer.get_vocab())
    ids = _ids(tokenizer, text.text)
    if ids != _ids(tuned.language_model.tokenizer, text.text):
        raise MismatchError(
            f"{text.name}: the tuned model's tokenizer cuts it otherwise than the base's, though"
            " both know the same tokens: give a model tuned from MODEL"
        )
    if len(ids) < _FEWEST:
        raise FormatError(
            f"{text.name}: has {counted(len(ids), 'token')}, expected at least {_FEWEST}: give some"
            " pages of what the tuned model is for"
        )
    before = _before(tokenizer(text.text, verbose=False)["input_ids"], ids)
    highest, known = max((*before, *ids)), common_size(base, tuned)
    if highest >= known:
        raise MismatchError(
            f"{text.name}: token {highest} of it is beyond the {known} that both models know"
        )
    most = min(longest, base.language_model.longest, tuned.language_model.longest)
    return tuple(_windows(ids, before, max(most - len(before), _FEWEST)))


def common_size(base: Subject, tuned: Subject) -> int:
    """Return the tokens that both heads have rows for; beyond the vocabulary these are padding."""
    return min(map(head_size, (base, tuned)))


def head_size(subject: Subject) -> int:
    """Return the rows of a model's head, as its config gives them."""
    return int(subject.language_model.inner.config.get_text_config().vocab_size)


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


def _require_same(base: Mapping[str, int], tuned: Mapping[str, int]) -> None:
    """Refuse vocabularies in which a number means different tokens.

    Raises:
        MismatchError: They differ.
    """
    if base == tuned:
        return
    others = sorted(base.items() ^ tuned.items(), key=lambda pair: (pair[1], pair[0]))
    token = others[0][0]
    names = counted(len({name for name, _ in others}), "token")
    here, there = (f"number {v[token]}" if token in v else "unknown" for v in (base, tuned))
    raise MismatchError(
        f"the vocabularies differ in {names}, the first {quoted(token)}: {here} to the base,"
        f" {there} to the tuned model; probabilities of tokens can be compared only where both"
        " tokenizers are the same: give a model tuned from MODEL, with MODEL's tokenizer"
    )

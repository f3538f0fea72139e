"""The tokens that two models have in common, of which alone probabilities can be compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from loragraft.errors import MismatchError
from loragraft.wording import counted, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loragraft.evaluation.subject import Subject


class Vocabulary(NamedTuple):
    """What two models have in common.

    Attributes:
        size: Tokens that have a probability, the first ones: those that both heads have rows for,
            up to the first that the tuned model's tokenizer adds. Rows beyond the tokenizers are
            padding.
        added: Tokens that it adds to the base's, in the order of their numbers.
        heads: Rows of the base's head and of the tuned model's.
    """

    size: int
    added: tuple[str, ...]
    heads: tuple[int, int]

    def without_added(self, text: str) -> str:
        """Return a text without what stands for added tokens."""
        for token in self.added:
            text = text.replace(token, "")
        return text


def common_vocabulary(base: Subject, tuned: Subject) -> Vocabulary:
    """Return what a base and a tuned model have in common.

    Raises:
        MismatchError: A number means another token to the tuned model than to the base, or none.
    """
    here, there = (one.language_model.tokenizer.get_vocab() for one in (base, tuned))
    _require_kept(here, there)
    added = sorted(there.keys() - here.keys(), key=there.__getitem__)
    heads = head_size(base), head_size(tuned)
    if not added:
        return Vocabulary(min(heads), (), heads)
    last, first = max(here.values(), default=-1), there[added[0]]
    if first <= last:
        raise MismatchError(
            f"the tuned model's tokenizer adds {quoted(added[0])} as number {first}, amid those of"
            f" the base's tokens, which end at {last}: only tokens that are added behind them can"
            " be left out of the comparison"
        )
    return Vocabulary(min(*heads, first), tuple(added), heads)


def head_size(subject: Subject) -> int:
    """Return the rows of a model's head, as its config gives them."""
    return int(subject.language_model.inner.config.get_text_config().vocab_size)


def _require_kept(base: Mapping[str, int], tuned: Mapping[str, int]) -> None:
    """Refuse a tokenizer that does not have all tokens of another by the same numbers.

    Raises:
        MismatchError: It is one.
    """
    others = [(number, token) for token, number in base.items() if tuned.get(token) != number]
    if not others:
        return
    token = min(others)[1]
    there = f"number {tuned[token]}" if token in tuned else "unknown"
    raise MismatchError(
        f"the vocabularies differ in {counted(len(others), 'token')} of the base's, the first"
        f" {quoted(token)}: number {base[token]} to the base, {there} to the tuned model;"
        " probabilities of tokens can be compared only where a number means the same token to both:"
        " give a model tuned from MODEL, whose tokenizer may have added tokens to MODEL's"
    )

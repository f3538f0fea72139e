"""The answers to calibration prompts, as the source with its adapter gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from loragraft.calibration.texts import Text
from loragraft.errors import MismatchError
from loragraft.wording import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loragraft.calibration.language_model import LanguageModel

#: Tokens of an answer, at most.
_LONGEST: Final = 64


def answered(
    source: LanguageModel, texts: Sequence[Text], seed: int
) -> tuple[list[Text], list[str]]:
    """Return the texts that have an answer, written by the source where none was given.

    It writes two to a prompt, the likeliest and one that it draws: what follows a token that it
    seldom writes is learnt from the second alone.

    Args:
        source: The source with its adapter.
        texts: The calibration texts.
        seed: Of what is drawn.

    Returns:
        The texts, those of one prompt together; what a reader must know, a sentence each.

    Raises:
        MismatchError: None has an answer.
    """
    asked = [text.prompt for text in texts if text.answer is None]
    written = [source.complete(asked, _LONGEST, seed=one) for one in (None, seed) if asked]
    made = iter(zip(*written, strict=True))
    answers = [
        (text.answer,) if text.answer is not None else tuple(dict.fromkeys(next(made)))
        for text in texts
    ]
    found = [
        Text(text.prompt, one)
        for text, own in zip(texts, answers, strict=True)
        for one in own
        if one
    ]
    if not found:
        raise MismatchError(
            f"the source with its adapter ends none of its answers to"
            f" {counted(len(asked), 'prompt')} within {_LONGEST} tokens: give texts with answers"
        )
    notes = []
    if asked:
        notes.append(
            f"distill: the source wrote the answers to {counted(len(asked), 'prompt')}, to each the"
            " likeliest and one that it drew"
        )
    lost = sum(not any(own) for own in answers)
    if lost:
        notes.append(
            f"distill: {counted(lost, 'text')} left out: without an answer, or with none that the"
            f" source ended within {_LONGEST} tokens"
        )
    return found, notes

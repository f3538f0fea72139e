"""Questions cut into tokens: what a model reads, and what is measured of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    #: Numbers of the tokens of a prompt and of an answer to it.
    Pair = tuple[Sequence[int], Sequence[int]]


class Line(NamedTuple):
    """A prompt and the answers that follow it.

    Attributes:
        prompt: Its tokens.
        answers: Tokens of each answer, at least one.
        numbers: Numbers of these answers among those to the question.
    """

    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    numbers: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Tokens to run where every answer is read with a prompt of its own."""
        return sum(len(self.prompt) + len(answer) for answer in self.answers)


def lines_of(pairs: Sequence[Pair], longest: int) -> tuple[Line, ...]:
    """Gather the answers to a question by their prompt, which most of the time they share.

    Args:
        pairs: Prompt and answer, for every answer.
        longest: Tokens that the model reads at most. What is longer loses tokens on the left, as
            in lm-evaluation-harness; the last token of an answer is not read.
    """
    gathered: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]] = {}
    for number, (prompt, answer) in enumerate(pairs):
        most = max(longest + 1 - len(answer), 1)
        gathered.setdefault(tuple(prompt)[-most:], []).append((number, tuple(answer)))
    return tuple(
        Line(prompt, tuple(answer for _, answer in found), tuple(number for number, _ in found))
        for prompt, found in gathered.items()
    )

"""What one candidate makes of every question of a task: the results that all figures are of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from loragraft.evaluation.harness import Prompts


@dataclass(frozen=True)
class Items:
    """Log-likelihoods of all answers to the questions of a task, of one candidate.

    Rows of a matrix belong to questions, columns to answers; where a question has fewer answers
    than others its row ends with NaN.

    Attributes:
        task: Name of the task.
        candidate: Name of the candidate.
        ids: Of the questions, in their order.
        gold: Number of the right answer, (questions,).
        log_likelihoods: In nats, (questions, answers).
        lengths: Characters of each answer, by which acc_norm divides, as lm-evaluation-harness
            counts them, (questions, answers).
    """

    task: str
    candidate: str
    ids: tuple[str, ...]
    gold: NDArray[np.intp]
    log_likelihoods: NDArray[np.float64]
    lengths: NDArray[np.float64]

    @cached_property
    def chosen(self) -> NDArray[np.intp]:
        """The likeliest answers, (questions,)."""
        return np.asarray(np.nanargmax(self.log_likelihoods, axis=1))

    @cached_property
    def chosen_norm(self) -> NDArray[np.intp]:
        """The answers that are likeliest per character, (questions,)."""
        return np.asarray(np.nanargmax(self.log_likelihoods / self.lengths, axis=1))

    @property
    def acc(self) -> NDArray[np.bool_]:
        """Whether the likeliest answer is right, (questions,)."""
        return np.asarray(self.chosen == self.gold)

    @property
    def acc_norm(self) -> NDArray[np.bool_]:
        """Whether the answer that is likeliest per character is right, (questions,)."""
        return np.asarray(self.chosen_norm == self.gold)

    @cached_property
    def gold_log_likelihood(self) -> NDArray[np.float64]:
        """Log-likelihood of the right answer in nats, (questions,)."""
        return np.asarray(self.log_likelihoods[np.arange(len(self.gold)), self.gold])

    @cached_property
    def margin(self) -> NDArray[np.float64]:
        """By how many nats the right answer is likelier than the likeliest wrong one."""
        others = self.log_likelihoods.copy()
        others[np.arange(len(self.gold)), self.gold] = np.nan
        return np.asarray(self.gold_log_likelihood - np.nanmax(others, axis=1))


def make_items(prompts: Prompts, candidate: str, found: Mapping[int, Sequence[float]]) -> Items:
    """Put the results of all questions together.

    Args:
        prompts: What was asked.
        candidate: Name of who answered.
        found: Log-likelihoods of the answers by number of the question.
    """
    rows = [found[number] for number in range(len(prompts.ids))]
    return Items(
        task=prompts.task,
        candidate=candidate,
        ids=prompts.ids,
        gold=np.array(prompts.gold, np.intp),
        log_likelihoods=_matrix(rows),
        lengths=_matrix(prompts.lengths),
    )


def _matrix(rows: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Return rows of different lengths as a matrix, short ones ending with NaN."""
    found = np.full((len(rows), max(map(len, rows))), np.nan)
    for place, row in enumerate(rows):
        found[place, : len(row)] = row
    return found

"""What must hold of results before they are compared: they are numbers, of the same questions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from loragraft.errors import MismatchError, NonFiniteError
from loragraft.wording import counted, quoted

if TYPE_CHECKING:
    from loragraft.evaluation.items import Items


def check_finite(items: Items) -> None:
    """Check that every answer has a log-likelihood.

    Raises:
        NonFiniteError: One is NaN or infinite.
    """
    bad = ~np.isfinite(items.log_likelihoods) & ~np.isnan(items.lengths)
    if not bad.any():
        return
    question, answer = np.argwhere(bad)[0]
    raise NonFiniteError(
        f"{items.candidate} on {items.task}, question {quoted(items.ids[question])}: got"
        f" {items.log_likelihoods[question, answer]} for the log-likelihood of answer {answer},"
        f" expected a number ({counted(int(bad.any(axis=1).sum()), 'question')} in all): look for"
        " NaN in the weights, or evaluate in fp32"
    )


def check_pair(one: Items, other: Items) -> None:
    """Check that two candidates answered the same questions in the same order.

    Raises:
        MismatchError: The questions, their right answers or the number or lengths of the answers
            differ.
    """
    where = f"{one.candidate} and {other.candidate} on {one.task}"
    advice = "run both on the same questions"
    if one.task != other.task:
        raise MismatchError(
            f"{one.candidate}: results of {one.task} cannot be paired with those of"
            f" {other.candidate} on {other.task}: {advice}"
        )
    if len(one.ids) != len(other.ids):
        raise MismatchError(
            f"{where}: got {counted(len(one.ids), 'question')}, expected {len(other.ids)}: {advice}"
        )
    for mine, theirs in zip(one.ids, other.ids, strict=True):
        if mine != theirs:
            raise MismatchError(
                f"{where}: got question {quoted(mine)}, expected {quoted(theirs)}: {advice}, in"
                " the same order"
            )
    differ = one.gold != other.gold
    if one.lengths.shape != other.lengths.shape:
        raise MismatchError(f"{where}: the questions differ in the number of answers: {advice}")
    equal = (one.lengths == other.lengths) | (np.isnan(one.lengths) & np.isnan(other.lengths))
    for wrong, what in ((differ, "right answers"), (~equal.all(axis=1), "answers")):
        if wrong.any():
            question = one.ids[int(np.argmax(wrong))]
            raise MismatchError(
                f"{where}: question {quoted(question)}: the {what} differ: {advice}"
            )

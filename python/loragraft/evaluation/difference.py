"""The difference of two candidates in one metric, with what chance allows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from loragraft.evaluation.bootstrap import mean_interval, ratio_interval
from loragraft.evaluation.paired import mcnemar, smallest_mean, smallest_share

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loragraft.evaluation.items import Items

    Vector = NDArray[np.float64]


class Metric(StrEnum):
    """What is measured of each question."""

    ACC = "acc"
    ACC_NORM = "acc_norm"
    #: By how many nats the right answer is likelier than the likeliest wrong one.
    MARGIN = "margin"
    #: Log-likelihood of the right answer, in nats.
    GOLD = "gold_log_likelihood"

    @property
    def is_share(self) -> bool:
        """Whether a question is right or wrong by it."""
        return self in {Metric.ACC, Metric.ACC_NORM}

    def of(self, items: Items) -> Vector:
        """Return the metric of every question, (questions,)."""
        return np.asarray(getattr(items, self.value), np.float64)

    def chosen(self, items: Items) -> NDArray[np.intp]:
        """Return the answers that are scored, (questions,)."""
        return items.chosen_norm if self is Metric.ACC_NORM else items.chosen


class Gap(NamedTuple):
    """Share of the oracle's lead that a candidate has, with its 95 % interval."""

    value: float
    low: float
    high: float


class Answers(NamedTuple):
    """What becomes of the answers.

    Attributes:
        changed: Share of questions that are answered otherwise, right or wrong.
        gained: Questions that only the candidate gets right.
        lost: Questions that only the other gets right.
    """

    changed: float
    gained: int
    lost: int


@dataclass(frozen=True, slots=True)
class Difference:
    """One metric of two candidates.

    Attributes:
        value: Mean of the candidate.
        other: Mean of the one it is compared with.
        difference: ``value − other``.
        low: Lower end of its 95 % interval.
        high: Upper end.
        p: Probability of a difference at least as large by chance, two-sided.
        p_holm: The same, with all comparisons of the metric allowed for.
        smallest_visible: The difference that so many questions show with a power of 80 %.
        answers: What becomes of the answers; None where the metric is no share of right ones.
        gap: Share of the oracle's lead; None without an oracle, or where it has no clear lead.
    """

    value: float
    other: float
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    smallest_visible: float
    answers: Answers | None = None
    gap: Gap | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain data."""
        return {
            **asdict(self),
            "answers": self.answers and self.answers._asdict(),
            "gap": self.gap and self.gap._asdict(),
        }


class Sample(NamedTuple):
    """Differences of all questions, and what resampling makes of their mean.

    Attributes:
        values: (questions,).
        means: Of the resamples, (draws,).
        chance: p-value of random signs.
    """

    values: Vector
    means: Vector
    chance: float


def measure(
    metric: Metric, one: Items, other: Items, sample: Sample, lead: Sample | None
) -> Difference:
    """Return the difference of two candidates, its p-value not yet corrected.

    Args:
        metric: What is measured.
        one: Results of the candidate.
        other: Results of the one it is compared with.
        sample: Of their differences.
        lead: Of the oracle's differences from `other`; None for no gap.
    """
    value, reference = metric.of(one), metric.of(other)
    low, high = mean_interval(sample.values, sample.means)
    if metric.is_share:
        answers = _answers(metric, one, other, sample.values)
        p = mcnemar(answers.gained, answers.lost)
        smallest = smallest_share(len(value), (answers.gained + answers.lost) / len(value))
    else:
        answers, p, smallest = None, sample.chance, smallest_mean(sample.values)
    return Difference(
        value=float(value.mean()),
        other=float(reference.mean()),
        difference=float(sample.values.mean()),
        low=low,
        high=high,
        p=p,
        p_holm=p,
        smallest_visible=smallest,
        answers=answers,
        gap=None if lead is None else _gap(sample, lead),
    )


def _answers(metric: Metric, one: Items, other: Items, differences: Vector) -> Answers:
    return Answers(
        changed=float(np.mean(metric.chosen(one) != metric.chosen(other))),
        gained=int(np.count_nonzero(differences > 0.0)),
        lost=int(np.count_nonzero(differences < 0.0)),
    )


def _gap(sample: Sample, lead: Sample) -> Gap | None:
    interval = ratio_interval(sample.values, lead.values, sample.means, lead.means)
    if interval is None:
        return None
    return Gap(float(sample.values.sum() / lead.values.sum()), *interval)

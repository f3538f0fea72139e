"""One candidate beside another on one task, in figures that allow for chance."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from loragraft.evaluation.bootstrap import resampled_means
from loragraft.evaluation.candidate import BASE
from loragraft.evaluation.difference import Answers, Difference, Metric, Sample, measure
from loragraft.evaluation.paired import holm, sign_flips
from loragraft.evaluation.pairing import check_finite, check_pair

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loragraft.evaluation.candidate import Candidate
    from loragraft.evaluation.items import Items

    Results = Mapping[str, Items]
    Samples = dict[Metric, Sample]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One candidate beside another on one task.

    Attributes:
        task: Name of the task.
        candidate: Name of the candidate.
        against: Name of the other.
        questions: How many both answered.
        metrics: All figures.
        same: Whether every log-likelihood is that of the other, bit for bit.
        oracle: Name of the oracle, None without one.
        family: Comparisons that ``p_holm`` allows for.
    """

    task: str
    candidate: str
    against: str
    questions: int
    metrics: Mapping[Metric, Difference]
    same: bool
    oracle: str | None = None
    family: int = 1

    @property
    def acc(self) -> Difference:
        """The difference in accuracy, of which the words are."""
        return self.metrics[Metric.ACC]

    @property
    def answers(self) -> Answers:
        """What becomes of the likeliest answers."""
        found = self.acc.answers
        assert found is not None
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as plain data; what is said of no metric is said of acc."""
        acc = self.acc.to_json()
        return {
            "task": self.task,
            "candidate": self.candidate,
            "against": self.against,
            "questions": self.questions,
            "same": self.same,
            "metrics": {metric.value: found.to_json() for metric, found in self.metrics.items()},
            **acc["answers"],
            "smallest_visible": acc["smallest_visible"],
            "oracle": self.oracle,
            "gap_recovered": acc["gap"],
            "family": self.family,
        }


def compare_all(
    items: Mapping[str, Results],
    candidates: Sequence[Candidate],
    *,
    oracle: str | None = None,
    beside: Sequence[str] = (),
    seed: int = 0,
) -> tuple[Comparison, ...]:
    """Compare all candidates with the base, and with others if asked.

    Args:
        items: Results by task and candidate. Who has none of a task is not compared there.
        candidates: All of them, in their order.
        oracle: Name of the candidate whose lead over the base is the gap to be recovered.
        beside: Names of candidates, such as controls, with which all others are compared, too.
        seed: Of the resamples.

    Returns:
        By task, and within it by candidate; p-values are corrected over all of them.

    Raises:
        MismatchError: Two candidates answered different questions.
        NonFiniteError: A log-likelihood is no number.
    """
    names = [one.name for one in candidates if one.name != BASE]
    pairs = [(name, BASE) for name in names]
    pairs += [(name, other) for other in beside for name in names if name not in beside]
    return _corrected(
        [one for own in items.values() for one in _compare_task(own, pairs, oracle, seed)]
    )


def _compare_task(
    own: Results, pairs: Sequence[tuple[str, str]], oracle: str | None, seed: int
) -> list[Comparison]:
    known = [(name, other) for name, other in pairs if name in own and other in own]
    for name, other in known:
        check_finite(own[name])
        check_finite(own[other])
        check_pair(own[name], own[other])
    samples = _samples(own, known, seed)
    found = []
    for name, other in known:
        one, reference = own[name], own[other]
        has_gap = oracle is not None and other == BASE and name != oracle
        lead = samples.get((oracle or "", BASE)) if has_gap else None
        metrics = {
            metric: measure(metric, one, reference, sample, lead[metric] if lead else None)
            for metric, sample in samples[name, other].items()
        }
        same = np.array_equal(one.log_likelihoods, reference.log_likelihoods, equal_nan=True)
        found.append(Comparison(one.task, name, other, len(one.ids), metrics, same, oracle))
    return found


def _samples(
    own: Results, pairs: Sequence[tuple[str, str]], seed: int
) -> dict[tuple[str, str], Samples]:
    """Return the differences of all pairs, resampled together: to draw takes longer than to sum."""
    if not pairs:
        return {}
    keys = [(pair, metric) for pair in pairs for metric in Metric]
    columns = np.column_stack(
        [metric.of(own[name]) - metric.of(own[other]) for (name, other), metric in keys]
    )
    means, chances = resampled_means(columns, seed), sign_flips(columns, seed)
    found: dict[tuple[str, str], Samples] = {pair: {} for pair in pairs}
    for place, (pair, metric) in enumerate(keys):
        found[pair][metric] = Sample(columns[:, place], means[:, place], float(chances[place]))
    return found


def _corrected(found: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """Return the comparisons with their p-values corrected, each metric by itself."""
    metrics: list[dict[Metric, Difference]] = [{} for _ in found]
    for metric in Metric:
        corrected = holm([one.metrics[metric].p for one in found])
        for own, one, p in zip(metrics, found, corrected, strict=True):
            own[metric] = replace(one.metrics[metric], p_holm=p)
    return tuple(
        replace(one, metrics=own, family=len(found))
        for one, own in zip(found, metrics, strict=True)
    )

"""What an evaluation found, as data: schema ``loragraft.report/1``."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from loragraft.evaluation.candidate import BASE
from loragraft.evaluation.comparison import compare_all
from loragraft.evaluation.difference import Metric
from loragraft.evaluation.verdict import finding, verdict, words
from loragraft.report.model import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from loragraft.evaluation.candidate import Candidate
    from loragraft.evaluation.comparison import Comparison
    from loragraft.evaluation.items import Items


@dataclass(frozen=True, slots=True)
class CandidateScores:
    """One candidate on one task.

    Attributes:
        name: Of the candidate.
        acc: Share of questions whose likeliest answer is right.
        acc_norm: Share of questions whose answer that is likeliest per character is right.
        margin: Mean lead of the right answer over the likeliest wrong one, in nats.
        gold_log_likelihood: Mean log-likelihood of the right answer, in nats.
        acc_stderr: Standard error of `acc`, s / √n with n − 1 in s, as lm-evaluation-harness
            tells it; None for a single question. It says nothing of differences.
        acc_norm_stderr: The same of `acc_norm`.
    """

    name: str
    acc: float
    acc_norm: float
    margin: float
    gold_log_likelihood: float
    acc_stderr: float | None
    acc_norm_stderr: float | None


@dataclass(frozen=True, slots=True)
class TaskScores:
    """All candidates on one task."""

    name: str
    questions: int
    candidates: tuple[CandidateScores, ...]


@dataclass(frozen=True, slots=True)
class EvaluationSummary:
    """An evaluation in a few figures.

    Attributes:
        verdict: One sentence.
        seconds: Wall time.
        warnings: What a reader should know before trusting the result.
    """

    verdict: str
    seconds: float
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """Everything that an evaluation has to say; `fidelity` has a mapping for each candidate."""

    inputs: Mapping[str, Any]
    summary: EvaluationSummary
    candidates: tuple[Candidate, ...]
    tasks: tuple[TaskScores, ...]
    comparisons: tuple[Comparison, ...]
    fidelity: tuple[Mapping[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain data, ready for ``json.dumps``."""
        return {
            "schema": SCHEMA,
            "command": "evaluate",
            "inputs": dict(self.inputs),
            "summary": asdict(self.summary),
            "candidates": [
                {"name": one.name, "kind": one.kind.value, "path": one.given}
                for one in self.candidates
            ],
            "tasks": [asdict(task) for task in self.tasks],
            "comparisons": [
                {**one.to_json(), "finding": finding(one).value, "words": words(one)}
                for one in self.comparisons
            ],
            "fidelity": [dict(row) for row in self.fidelity],
            "tensors": [],
            "modules": [],
        }


def evaluation_report(
    items: Mapping[str, Mapping[str, Items]],
    candidates: Sequence[Candidate],
    *,
    inputs: Mapping[str, Any],
    seconds: float,
    oracle: str | None = None,
    beside: Sequence[str] = (),
    seed: int = 0,
    warnings: Sequence[str] = (),
    fidelity: Sequence[Mapping[str, Any]] = (),
    fidelity_words: str = "",
) -> EvaluationReport:
    """Return the report of an evaluation, from the results of every question.

    Args:
        items: Results by task and candidate.
        candidates: All of them, in the order in which they are shown.
        inputs: What the command was given.
        seconds: Wall time.
        oracle: As `compare_all` takes it.
        beside: As `compare_all` takes it.
        seed: Of the resamples.
        warnings: What is known of the run.
        fidelity: What is known without questions, a mapping for each candidate.
        fidelity_words: What it comes to, which becomes a part of the verdict.

    Raises:
        MismatchError: Two candidates answered different questions.
        NonFiniteError: A log-likelihood is no number.
    """
    comparisons = compare_all(items, candidates, oracle=oracle, beside=beside, seed=seed)
    sentences = [verdict(comparisons)] if items else []
    sentences += [fidelity_words] if fidelity_words else []
    found = (*warnings, *_warnings(comparisons))
    return EvaluationReport(
        inputs=inputs,
        summary=EvaluationSummary("; ".join(sentences), seconds, found),
        candidates=tuple(candidates),
        tasks=tuple(_task(own, candidates) for own in items.values() if own),
        comparisons=comparisons,
        fidelity=tuple(fidelity),
    )


def _task(own: Mapping[str, Items], candidates: Sequence[Candidate]) -> TaskScores:
    some = next(iter(own.values()))
    rows = [_scores(own[one.name]) for one in candidates if one.name in own]
    return TaskScores(some.task, len(some.ids), tuple(rows))


def _scores(items: Items) -> CandidateScores:
    acc, acc_norm, margin, gold = (float(metric.of(items).mean()) for metric in Metric)
    return CandidateScores(
        name=items.candidate,
        acc=acc,
        acc_norm=acc_norm,
        margin=margin,
        gold_log_likelihood=gold,
        acc_stderr=_standard_error(items.acc),
        acc_norm_stderr=_standard_error(items.acc_norm),
    )


def _standard_error(right: NDArray[np.bool_]) -> float | None:
    return float(np.std(right, ddof=1) / math.sqrt(len(right))) if len(right) > 1 else None


def _warnings(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """Yield where there is no gap to recover, and who changes nothing."""
    with_gap = [one for one in comparisons if one.oracle not in {None, one.candidate}]
    for task, oracle in dict.fromkeys((one.task, one.oracle) for one in with_gap):
        own = [one for one in with_gap if one.task == task and one.against == BASE]
        if own and all(one.acc.gap is None for one in own):
            yield (
                f"{task}: {oracle} is not clearly more often right than the base, so that there is"
                " no gap in accuracy to recover"
            )
    names = dict.fromkeys(one.candidate for one in comparisons if one.against == BASE)
    for name in names:
        if all(one.same for one in comparisons if one.candidate == name and one.against == BASE):
            yield f"{name} changes nothing: every answer has the probability that the base gives it"

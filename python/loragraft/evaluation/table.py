"""An evaluation as a page of figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from loragraft.evaluation.candidate import BASE
from loragraft.evaluation.difference import Metric
from loragraft.evaluation.forest import Forest, Row
from loragraft.evaluation.verdict import Finding, finding, points, probability, signed, words
from loragraft.report.page import Line, Page, Table
from loragraft.wording import percent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from loragraft.evaluation.comparison import Comparison
    from loragraft.evaluation.report import CandidateScores, EvaluationReport, TaskScores
    from loragraft.report.page import Part

_NONE: Final = "–"
_SCORES: Final = ("candidate", "acc", "± s.e.", "acc_norm", "margin", "log-lik.", "changed", "p")
_BESIDES: Final = {
    Metric.ACC_NORM: "acc_norm in points",
    Metric.MARGIN: "margin in nats",
    Metric.GOLD: "log-lik. in nats",
}
_TUNED: Final = "tuned"
#: What is told of fidelity, by heading, and whether it is a share.
_FIDELITY: Final = {
    "candidate": ("candidate", False),
    "rank": ("rank", False),
    "KL from tuned": ("kl", False),
    "removed, %": ("removed", True),
    "top-1, %": ("top1", True),
    "perplexity": ("perplexity", False),
}
_STYLES: Final = {Finding.BETTER: "green", Finding.WORSE: "red", Finding.SAME: "dim"}


def evaluation_page(report: EvaluationReport) -> Page:
    """Return the scores of every task, the differences as intervals, and what they come to."""
    parts: list[Part] = []
    for task in report.tasks:
        own = [one for one in report.comparisons if one.task == task.name]
        parts += _task_parts(task, own)
    if report.fidelity:
        parts.append(fidelity_table(report.fidelity))
    parts += [Line(f"! {warning}", "yellow") for warning in report.summary.warnings]
    return Page((*parts, Line(report.summary.verdict, "bold")))


def _task_parts(task: TaskScores, comparisons: Sequence[Comparison]) -> Iterator[Part]:
    noun = "question" if task.questions == 1 else "questions"
    yield Line(f"{task.name}: {task.questions:,} {noun}", "bold")
    yield scores_table(task, comparisons)
    for against in dict.fromkeys(one.against for one in comparisons):
        own = [one for one in comparisons if one.against == against]
        name = "the base" if against == BASE else against
        yield forest(own, f"acc: difference from {name} in points, with 95 % intervals")
        yield Line("the same by other metrics; p allows for all comparisons of a metric (Holm)")
        yield differences_table(own)
        beside = "" if against == BASE else f" beside {against}"
        yield from (Line(f"  {one.candidate}{beside}: {words(one)}") for one in own)
        yield Line("")


def scores_table(task: TaskScores, comparisons: Sequence[Comparison]) -> Table:
    """Return what each candidate reached, and what it changes of the base."""
    with_base = {one.candidate: one for one in comparisons if one.against == BASE}
    rows = tuple(_scores(one, with_base.get(one.name)) for one in task.candidates)
    return Table(_SCORES, rows)


def _scores(one: CandidateScores, comparison: Comparison | None) -> tuple[str, ...]:
    error = one.acc_stderr
    return (
        one.name,
        f"{100.0 * one.acc:.1f}%",
        _NONE if error is None else f"{100.0 * error:.1f}",
        f"{100.0 * one.acc_norm:.1f}%",
        signed(one.margin, 3),
        signed(one.gold_log_likelihood, 3),
        _NONE if comparison is None else f"{100.0 * comparison.answers.changed:.1f}%",
        _NONE if comparison is None else probability(comparison.acc.p_holm),
    )


def forest(comparisons: Sequence[Comparison], title: str) -> Forest:
    """Return the differences in accuracy as intervals."""
    return Forest(title, tuple(map(_interval, comparisons)))


def _interval(one: Comparison) -> Row:
    acc = one.acc
    low, high = (points(end).removeprefix("+") for end in (acc.low, acc.high))
    text = f"{points(acc.difference)} ({low} to {high})"
    figures = (100.0 * acc.difference, 100.0 * acc.low, 100.0 * acc.high)
    return Row(one.candidate, *figures, text, _STYLES.get(finding(one), ""))


def differences_table(comparisons: Sequence[Comparison]) -> Table:
    """Return the differences in all else but accuracy."""
    columns = ("candidate", "of", "difference", "95 % interval", "p")
    rows = tuple(
        (one.candidate, name, *_difference(one, metric))
        for metric, name in _BESIDES.items()
        for one in comparisons
    )
    return Table(columns, rows, words=2)


def _difference(one: Comparison, metric: Metric) -> tuple[str, ...]:
    found = one.metrics[metric]
    scale, digits = (100.0, 1) if metric.is_share else (1.0, 3)
    value, low, high = (
        signed(scale * figure, digits) for figure in (found.difference, found.low, found.high)
    )
    low, high = low.removeprefix("+"), high.removeprefix("+")
    return value, f"{low} to {high}", probability(found.p_holm)


def fidelity_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return how near each candidate is to the tuned model, with the base and the latter beside.

    Args:
        rows: As `FidelityRow.to_json` gives them; columns that nobody has a figure for are left
            out.
    """
    first = rows[0]
    base = {name: first.get(f"{name}_base") for name in ("kl", "top1", "perplexity")}
    tuned = {"kl": 0.0, "top1": 1.0, "perplexity": first.get("perplexity_tuned")}
    shown = [{"candidate": BASE, **base}, *rows, {"candidate": _TUNED, **tuned}]
    cells = [tuple(_figure(row, key, share) for key, share in _FIDELITY.values()) for row in shown]
    kept = [n for n in range(len(_FIDELITY)) if any(row[n] != _NONE for row in cells[1:-1])]
    columns = tuple(tuple(_FIDELITY)[n] for n in kept)
    return Table(columns, tuple(tuple(row[n] for n in kept) for row in cells))


def _figure(row: Mapping[str, Any], key: str, share: bool) -> str:
    """Return a figure with its interval, where it has one."""
    value = _number(row.get(key), share)
    low, high = (_number(row.get(f"{key}_{end}"), share) for end in ("low", "high"))
    return value if _NONE in {low, high} else f"{value} ({low} to {high})"


def _number(value: object, share: bool) -> str:
    if value is None:
        return _NONE
    if not isinstance(value, float):
        return str(value)
    return percent(value).removesuffix("%") if share else f"{value:.4g}"

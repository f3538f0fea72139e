"""Comparisons, what is said of them, and the report that holds both."""

from __future__ import annotations

import io
import json
import statistics
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from evaluated import made, named, noisy, right
from loragraft.errors import MismatchError, NonFiniteError
from loragraft.evaluation.candidate import BASE
from loragraft.evaluation.comparison import compare_all
from loragraft.evaluation.difference import Answers, Metric
from loragraft.evaluation.forest import Forest, Row
from loragraft.evaluation.report import evaluation_report
from loragraft.evaluation.table import evaluation_page
from loragraft.evaluation.verdict import Finding, finding, signed, verdict, words

if TYPE_CHECKING:
    from loragraft.evaluation.comparison import Comparison
    from loragraft.evaluation.items import Items
    from loragraft.evaluation.report import EvaluationReport

COUNT = 1172


def compared(*candidates: Items, oracle: str | None = None) -> tuple[Comparison, ...]:
    own = {one.candidate: one for one in candidates}
    return compare_all({candidates[0].task: own}, named(*own), oracle=oracle)


def test_figures_are_those_of_the_questions() -> None:
    base, one = made(BASE, right(100, 40)), made("a", right(100, 55, wrong=2), lead=0.5)
    (found,) = compared(base, one)
    acc = found.acc
    assert (acc.value, acc.other, acc.difference) == pytest.approx((0.55, 0.4, 0.15))
    assert acc.answers == Answers(changed=0.6, gained=15, lost=0)
    assert acc.p == pytest.approx(2.0 * 0.5**15)
    assert acc.low < 0.15 < acc.high
    # A margin is the lead, of the right answer or the wrong one.
    margin = found.metrics[Metric.MARGIN]
    assert margin.value == pytest.approx(0.5 * 0.55 - 0.5 * 0.45)
    assert margin.other == pytest.approx(0.4 - 0.6)
    gold = found.metrics[Metric.GOLD]
    assert gold.difference == pytest.approx((-2.0 + 0.55 * 0.5) - (-2.0 + 0.4))
    assert margin.answers is None
    assert not found.same


def test_acc_norm_has_changes_of_its_own() -> None:
    base, one = made(BASE, right(20, 0)), made("a", right(20, 0))
    lengths = base.lengths.copy()
    # −2 by 100 characters is more than −1 by 10.
    lengths[:12, 0] = 100.0
    base, one = replace(base, lengths=lengths), replace(one, lengths=lengths)
    scores = one.log_likelihoods.copy()
    scores[:3, 0] = -200.0
    (found,) = compared(base, replace(one, log_likelihoods=scores))
    assert found.answers == Answers(0.0, 0, 0)
    assert found.metrics[Metric.ACC_NORM].answers == Answers(0.15, 0, 3)
    assert found.metrics[Metric.ACC_NORM].p == pytest.approx(0.25)


def test_holm_allows_for_all_candidates_of_all_tasks() -> None:
    own = noisy(400, 0, a=0.25, b=0.3, c=0.0)
    other = {name: replace(items, task="other") for name, items in own.items()}
    candidates = named(BASE, "a", "b", "c")
    one = compare_all({"arc_easy": own}, candidates)
    both = compare_all({"arc_easy": own, "other": other}, candidates)
    assert [(row.task, row.candidate) for row in both] == [
        (task, name) for task in ("arc_easy", "other") for name in "abc"
    ]
    assert {row.family for row in both} == {6}
    for metric in Metric:
        smallest = min(row.metrics[metric].p for row in one)
        least = min(row.metrics[metric].p_holm for row in one)
        assert least == pytest.approx(min(1.0, 3.0 * smallest))
        assert min(row.metrics[metric].p_holm for row in both) == pytest.approx(
            min(1.0, 6.0 * smallest)
        )


def test_a_candidates_figures_do_not_depend_on_the_others() -> None:
    own = noisy(300, 1, a=0.3, b=0.6)
    (alone,) = compare_all({"arc_easy": {k: own[k] for k in (BASE, "b")}}, named(BASE, "b"))
    beside = compare_all({"arc_easy": own}, named(BASE, "a", "b"))[1]
    for metric in Metric:
        mine, theirs = alone.metrics[metric], beside.metrics[metric]
        assert (mine.low, mine.high, mine.p) == pytest.approx(
            (theirs.low, theirs.high, theirs.p), rel=1e-12
        )
    again = compare_all({"arc_easy": own}, named(BASE, "a", "b"), seed=1)[1]
    assert again.metrics[Metric.GOLD].low != beside.metrics[Metric.GOLD].low


def test_the_gap_is_the_share_of_the_oracles_lead() -> None:
    base, oracle = made(BASE, right(COUNT, 300)), made("tuned", right(COUNT, 500))
    half, whole = made("half", right(COUNT, 400)), made("whole", right(COUNT, 500))
    found = {row.candidate: row for row in compared(base, oracle, half, whole, oracle="tuned")}
    assert found["tuned"].acc.gap is None
    gap = found["half"].acc.gap
    assert gap is not None
    assert gap.value == pytest.approx(0.5)
    assert 0.4 < gap.low < 0.5 < gap.high < 0.6
    assert found["whole"].acc.gap == pytest.approx((1.0, 1.0, 1.0))
    assert "recovers 50 % (95 %: 4" in words(found["half"])
    assert words(found["whole"]).endswith("of the gap to tuned")
    # Without a clear lead there is no gap.
    weak = made("tuned", right(COUNT, 301))
    found = {row.candidate: row for row in compared(base, weak, half, oracle="tuned")}
    assert found["half"].acc.gap is None
    assert "recovers" not in words(found["half"])


def test_candidates_can_be_set_beside_controls() -> None:
    own = noisy(300, 2, a=1.0, tuned=2.0, control=0.0)
    candidates = named(BASE, "a", "tuned", "control")
    found = compare_all({"arc_easy": own}, candidates, beside=["control"], oracle="tuned")
    pairs = [(row.candidate, row.against) for row in found]
    assert pairs[:3] == [("a", BASE), ("tuned", BASE), ("control", BASE)]
    assert pairs[3:] == [("a", "control"), ("tuned", "control")]
    assert {row.family for row in found} == {5}
    # The gap is one to the base.
    gaps = [row.metrics[Metric.GOLD].gap is not None for row in found]
    assert gaps == [True, False, True, False, False]
    assert found[3].acc.other == own["control"].acc.mean()
    assert "better than control: a on arc_easy (+" in verdict(found)


def test_who_has_no_results_is_not_compared() -> None:
    base, one = made(BASE, right(9, 3)), made("a", right(9, 3))
    candidates = named(BASE, "a", "b")
    tasks = {"arc_challenge": {BASE: base, "a": one}, "other": {BASE: base}, "third": {}}
    assert len(compare_all(tasks, candidates)) == 1
    report = evaluation_report(tasks, candidates, inputs={}, seconds=1.0)
    assert [len(task.candidates) for task in report.tasks] == [2, 1]
    assert verdict(()).startswith("There is nothing to compare")


def test_what_cannot_be_paired_is_refused() -> None:
    base, one = made(BASE, right(9, 3)), made("a", right(8, 3))
    with pytest.raises(MismatchError, match="expected 9"):
        compared(base, one)
    scores = base.log_likelihoods.copy()
    scores[0] = np.nan
    broken = replace(base, candidate="a", log_likelihoods=scores)
    with pytest.raises(NonFiniteError, match="a on arc_challenge, question 'q0'"):
        compared(base, broken)


def test_better_and_worse_are_said_with_their_interval() -> None:
    base, better = made(BASE, right(COUNT, 300)), made("a", right(COUNT, 325))
    (found,) = compared(base, better)
    low, high = (f"{100.0 * end:.1f}" for end in (found.acc.low, found.acc.high))
    assert finding(found) is Finding.BETTER
    assert words(found) == f"better by 2.1 points (95 %: {low} to {high})"
    assert verdict([found]) == f"a on arc_challenge: {words(found)}"
    (turned,) = compared(replace(better, candidate=BASE), replace(base, candidate="a"))
    assert finding(turned) is Finding.WORSE
    low, high = (f"{-100.0 * end:.1f}" for end in (turned.acc.high, turned.acc.low))
    assert float(low) < 2.1 < float(high)
    assert words(turned) == f"worse by 2.1 points (95 %: {low} to {high})"
    assert turned.acc.low == pytest.approx(-found.acc.high, abs=2.0 / COUNT)


def test_an_adapter_that_changes_nothing_is_called_that() -> None:
    base = made(BASE, right(COUNT, 300))
    report = evaluation_report(
        {"arc_challenge": {BASE: base, "a": replace(base, candidate="a")}},
        named(BASE, "a"), inputs={}, seconds=1.0,
    )  # fmt: skip
    (found,) = report.comparisons
    assert finding(found) is Finding.SAME
    assert words(found) == "answers exactly as the base does: it changes nothing"
    assert "it changes nothing" in report.summary.verdict
    assert report.summary.warnings == (
        "a changes nothing: every answer has the probability that the base gives it",
    )
    # So is one of questions that differ in the number of answers.
    gone = np.where(np.arange(4) == 3, np.nan, base.lengths)
    fewer = replace(base, lengths=gone, log_likelihoods=base.log_likelihoods + 0.0 * gone)
    assert finding(compared(fewer, replace(fewer, candidate="a"))[0]) is Finding.SAME
    # The last bit of one answer is a change.
    scores = base.log_likelihoods.copy()
    scores[-1, -1] = np.nextafter(scores[-1, -1], 0.0)
    (found,) = compared(base, replace(base, candidate="a", log_likelihoods=scores))
    assert words(found).startswith("gives the same answers, with other probabilities: no diff")


def test_no_difference_is_said_with_what_could_be_shown() -> None:
    base, one = made(BASE, right(COUNT, 300)), made("a", right(COUNT, 303))
    (found,) = compared(base, one)
    assert words(found) == (
        "no difference that 1,172 questions could show (the smallest they could is 0.7 points)"
    )
    chosen = right(COUNT, 300)
    chosen[:50], chosen[300:350], chosen[500:800] = 1, 0, 2
    (found,) = compared(base, made("a", chosen))
    assert found.answers.changed == pytest.approx(400 / COUNT)
    assert words(found).startswith(
        "changes 34 % of the answers, 50 to right and 50 to wrong, as chance could: no difference"
    )
    (found,) = compared(made(BASE, right(5, 0)), made("a", right(5, 5)))
    assert words(found).endswith("5 questions could show, which are too few to show any")


def test_what_holds_alone_may_not_hold_among_many() -> None:
    base, one = made(BASE, right(COUNT, 300)), made("a", right(COUNT, 307))
    assert finding(compared(base, one)[0]) is Finding.BETTER
    found = compared(base, one, *(made(name, right(COUNT, 300)) for name in "bcdef"))
    assert finding(found[0]) is Finding.UNCERTAIN
    assert words(found[0]).startswith("better by 0.6 points (95 %: ")
    assert (
        "if it were the only comparison (p = 0.016), which 6 comparisons do not bear out"
        " (p = 0.094)"
    ) in words(found[0])


def test_margins_are_told_where_accuracy_sees_nothing() -> None:
    base = made(BASE, right(COUNT, COUNT // 2))
    scores = base.log_likelihoods.copy()
    scores[:, 0] += np.random.default_rng(0).normal(0.1, 0.2, COUNT)
    (found,) = compared(base, replace(base, candidate="a", log_likelihoods=scores))
    assert finding(found) is Finding.NONE
    assert "but right answers stand out more, by 0.093 nats (95 %: 0.0" in words(found)
    # Noise by itself is no margin, and neither is what leaves all answers' ranks alone.
    scores = base.log_likelihoods - 0.5
    (found,) = compared(base, replace(base, candidate="a", log_likelihoods=scores))
    assert "stand out" not in words(found)


def test_the_whole_is_one_sentence() -> None:
    own = noisy(1000, 3, good=2.0, bad=-2.0, noise=0.0)
    own["idle"] = replace(own[BASE], candidate="idle")
    found = compare_all({"arc_easy": own}, named(*own))
    good, bad = (f"{100.0 * abs(row.acc.difference):.1f}" for row in found[:2])
    assert verdict(found) == (
        f"better than the base: good on arc_easy (+{good} points); worse than the base: bad on"
        f" arc_easy (−{bad} points); no difference from the base shown: noise on arc_easy;"
        " exactly as the base: idle on arc_easy (4 comparisons, Holm's correction at 5 %)"
    )


@pytest.mark.parametrize(
    ("value", "text"), [(1.25, "+1.2"), (-1.26, "−1.3"), (-0.04, "0.0"), (0.0, "0.0")]
)
def test_nothing_has_no_sign(value: float, text: str) -> None:
    assert signed(value, 1) == text


@pytest.fixture(scope="module")
def report() -> EvaluationReport:
    own = noisy(300, 4, tuned=1.5, a=0.8)
    return evaluation_report(
        {"arc_easy": own}, named(BASE, "tuned", "a"), inputs={"model": "owner/base"},
        seconds=2.5, oracle="tuned", warnings=["a warning"],
        fidelity=[{"candidate": "a", "kl": 0.123456, "tokens": 100, "rank": None}],
    )  # fmt: skip


def test_the_report_is_plain_data(report: EvaluationReport) -> None:
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert (data["schema"], data["command"]) == ("loragraft.report/1", "evaluate")
    assert data["candidates"][0] == {"name": "base", "kind": "base", "path": "base"}
    assert data["summary"]["warnings"] == ["a warning"]
    (task,) = data["tasks"]
    assert [row["name"] for row in task["candidates"]] == ["base", "tuned", "a"]
    acc = noisy(300, 4)[BASE].acc
    scores = task["candidates"][0]
    assert scores["acc"] == pytest.approx(acc.mean())
    assert scores["acc_stderr"] == pytest.approx(statistics.stdev(acc.astype(float)) / 300**0.5)
    tuned, one = data["comparisons"]
    assert tuned["gap_recovered"] is None
    assert set(one["gap_recovered"]) == {"value", "low", "high"}
    assert set(one["metrics"]) == {"acc", "acc_norm", "margin", "gold_log_likelihood"}
    assert {"value", "other", "difference", "low", "high", "p", "p_holm"} < set(
        one["metrics"]["margin"]
    )
    assert one["words"] == words(report.comparisons[1])
    assert one["changed"] == report.comparisons[1].answers.changed


def test_fidelity_has_its_words_in_the_verdict() -> None:
    said = "a is nearer to tuned than the base is"
    alone = evaluation_report({}, named(BASE, "a"), inputs={}, seconds=1.0, fidelity_words=said)
    assert alone.summary.verdict == said
    own = noisy(50, 6, a=0.0)
    both = evaluation_report(
        {"arc_easy": own}, named(*own), inputs={}, seconds=1.0, fidelity_words=said
    )
    assert both.summary.verdict == f"{verdict(both.comparisons)}; {said}"


def test_a_missing_gap_is_told() -> None:
    own = noisy(300, 5, tuned=0.0, a=0.0)
    found = evaluation_report(
        {"arc_easy": own}, named(*own), inputs={}, seconds=1.0, oracle="tuned"
    )
    assert found.summary.warnings == (
        "arc_easy: tuned is not clearly more often right than the base, so that there is no gap in"
        " accuracy to recover",
    )


@pytest.mark.parametrize("width", [80, 120])
def test_the_page_has_every_figure(report: EvaluationReport, width: int) -> None:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    with console.capture() as capture:
        console.print(evaluation_page(report))
    text = capture.get()
    assert evaluation_page(report).plain(width) == text
    assert "…" not in text
    acc = report.comparisons[1].acc
    assert f"{100.0 * acc.difference:+.1f} (" in text
    for said in ("arc_easy: 300 questions", "! a warning", "0.1235", "│", "●"):
        assert said in text
    flowing = " ".join(text.split())
    assert words(report.comparisons[1]) in flowing
    assert report.summary.verdict in flowing


FIGURES = st.floats(-100.0, 100.0, allow_subnormal=False)
ROWS = st.lists(
    st.builds(
        lambda name, ends, text: Row(name, ends[1], ends[0], ends[2], text),
        st.text("ab ü", min_size=1, max_size=40).filter(str.strip),
        st.lists(FIGURES, min_size=3, max_size=3).map(sorted),
        st.sampled_from(["+1.0 (0.0 to 2.0)", "0"]),
    ),
    min_size=1,
    max_size=5,
)


@given(ROWS, st.integers(24, 120))
def test_intervals_share_an_axis(rows: list[Row], width: int) -> None:
    lines = list(Forest("points", tuple(rows)).lines(width))
    assert len(lines) == len(rows) + 2
    assert all(len(line) <= width for line in lines)
    found = {row.value: line.index("●") for row, line in zip(rows, lines[1:], strict=False)}
    places = [found[value] for value in sorted(found)]
    assert places == sorted(places)
    zeros = {line.index(mark) for line in lines for mark in "│┼" if mark in line}
    assert len(zeros) <= 1
    for row, line in zip(rows, lines[1:], strict=False):
        for zero in zeros:
            # A column is a part of the axis: what rounds to zero's may be on either side.
            assert line.index("●") <= zero or row.value > 0.0
            assert line.index("●") >= zero or row.value < 0.0


def test_intervals_are_drawn_to_scale() -> None:
    rows = (Row("a", 2.0, 0.0, 4.0, "+2.0"), Row("longer", -4.0, -8.0, 1.0, "−4.0"))
    assert list(Forest("points", rows).lines(46)) == [
        "points",
        "a                            ├───●───┤    +2.0",
        "longer      ├───────●────────┼─┤          −4.0",
        "        −10      −5          0         5",
    ]
    below = Forest("points", (Row("a", -3.0, -4.0, -1.0, "−3.0"), Row("b", 0.0, 0.0, 0.0, "0.0")))
    assert list(below.lines(30)) == [
        "points",
        "a  ├────●─────────┤    │  −3.0",
        "b                      ●   0.0",
        "   −4       −2         0",
    ]


def test_intervals_in_a_terminal_are_those_of_a_file() -> None:
    forest = Forest("points", (Row("a", 2.0, 1.0, 4.0, "+2.0", "green"),))
    console = Console(file=io.StringIO(), width=60, highlight=False)
    with console.capture() as capture:
        console.print(forest)
    assert capture.get().splitlines() == list(forest.lines(60))

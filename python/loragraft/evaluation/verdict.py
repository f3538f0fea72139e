"""What is said of comparisons: each in a clause, all of them in a sentence."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

from loragraft.evaluation.candidate import BASE
from loragraft.evaluation.difference import Metric
from loragraft.evaluation.paired import SIGNIFICANT
from loragraft.wording import counted, listed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from loragraft.evaluation.comparison import Comparison
    from loragraft.evaluation.difference import Difference, Gap

#: From this share of changed answers on, their number is told beside a difference of nothing.
_MANY: Final = 0.05


class Finding(StrEnum):
    """What a comparison comes to, by accuracy after Holm's correction."""

    BETTER = "better"
    WORSE = "worse"
    #: A difference only if it were the only comparison.
    UNCERTAIN = "uncertain"
    #: None that so many questions could show.
    NONE = "none"
    #: None at all: every log-likelihood is equal.
    SAME = "same"


def finding(one: Comparison) -> Finding:
    """Return what a comparison comes to."""
    if one.same:
        return Finding.SAME
    if one.acc.p_holm < SIGNIFICANT:
        return Finding.BETTER if one.acc.difference > 0.0 else Finding.WORSE
    return Finding.UNCERTAIN if one.acc.p < SIGNIFICANT else Finding.NONE


def words(one: Comparison) -> str:
    """Return what is to be said of a comparison, as ``CANDIDATE on TASK: …`` goes on."""
    found = finding(one)
    if found is Finding.SAME:
        tail = ": it changes nothing" if one.against == BASE else ""
        return f"answers exactly as {_named(one.against)} does{tail}"
    if found is Finding.NONE:
        parts = [_nothing(one), *_margin(one)]
    elif found is Finding.UNCERTAIN:
        parts = [
            f"{_better(one.acc)} if it were the only comparison (p = {probability(one.acc.p)}),"
            f" which {counted(one.family, 'comparison')} do not bear out"
            f" (p = {probability(one.acc.p_holm)})",
            *_margin(one),
        ]
    else:
        parts = [_better(one.acc)]
    return "; ".join([*parts, *_gap(one)])


def verdict(comparisons: Sequence[Comparison]) -> str:
    """Return the sentence for the whole: who is better than the base, and who is not."""
    if not comparisons:
        return "There is nothing to compare: only one candidate answered questions"
    if len(comparisons) == 1:
        (one,) = comparisons
        return f"{_title(one)}: {words(one)}"
    parts = [
        part
        for against in dict.fromkeys(one.against for one in comparisons)
        for part in _groups([one for one in comparisons if one.against == against])
    ]
    compared = counted(len(comparisons), "comparison")
    return f"{'; '.join(parts)} ({compared}, Holm's correction at 5 %)"


def points(share: float) -> str:
    """Return a difference of shares in points of a hundredth, with its sign."""
    return signed(100.0 * share, 1)


def signed(value: float, digits: int) -> str:
    """Return a number with its sign; what rounds to nothing has none."""
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0.0:
        return text
    return f"+{text}" if value > 0.0 else f"−{text}"


def probability(p: float) -> str:
    """Return a p-value as one reads it."""
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def _better(acc: Difference) -> str:
    """Return ``better by 2.1 points (95 %: 0.6 to 3.6)``."""
    word, sign = ("better", 1.0) if acc.difference > 0.0 else ("worse", -1.0)
    low, high = sorted((sign * acc.low, sign * acc.high))
    return (
        f"{word} by {100.0 * abs(acc.difference):.1f} points"
        f" (95 %: {_plain(low)} to {_plain(high)})"
    )


def _plain(share: float) -> str:
    return points(share).removeprefix("+")


def _nothing(one: Comparison) -> str:
    text = f"no difference that {_questions(one.questions)} could show"
    if one.acc.smallest_visible < 1.0:
        text += f" (the smallest they could is {100.0 * one.acc.smallest_visible:.1f} points)"
    else:
        text += ", which are too few to show any"
    changed, gained, lost = one.answers
    if changed == 0.0:
        return f"gives the same answers, with other probabilities: {text}"
    if changed < _MANY:
        return text
    share = f"changes {100.0 * changed:.0f} % of the answers"
    return f"{share}, {gained} to right and {lost} to wrong, as chance could: {text}"


def _margin(one: Comparison) -> Iterator[str]:
    """Yield what accuracy cannot see."""
    margin = one.metrics[Metric.MARGIN]
    if margin.p_holm >= SIGNIFICANT:
        return
    word, sign = ("more", 1.0) if margin.difference > 0.0 else ("less", -1.0)
    low, high = sorted((sign * margin.low, sign * margin.high))
    yield (
        f"but right answers stand out {word}, by {abs(margin.difference):.3f} nats"
        f" (95 %: {signed(low, 3).removeprefix('+')} to {signed(high, 3).removeprefix('+')})"
    )


def _gap(one: Comparison) -> Iterator[str]:
    """Yield the gap recovered: in accuracy where the oracle leads in it, else in nats."""
    for metric, what in ((Metric.ACC, "the gap"), (Metric.GOLD, "the gap in log-likelihood")):
        gap = one.metrics[metric].gap
        if gap is not None:
            yield f"recovers {share_of(gap)} of {what} to {one.oracle}"
            return


def share_of(gap: Gap) -> str:
    """Return a gap recovered, with its interval."""
    value, low, high = (f"{100.0 * share:.0f}".replace("-", "−") for share in gap)
    return f"{value} % (95 %: {low} to {high})"


def _groups(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """Yield who is better than one and the same candidate, who is worse, and so on."""
    other = _named(comparisons[0].against)
    titles = {
        Finding.BETTER: f"better than {other}",
        Finding.WORSE: f"worse than {other}",
        Finding.UNCERTAIN: f"perhaps different from {other}",
        Finding.NONE: f"no difference from {other} shown",
        Finding.SAME: f"exactly as {other}",
    }
    for found, title in titles.items():
        own = [_brief(one) for one in comparisons if finding(one) is found]
        if own:
            yield f"{title}: {listed(own)}"


def _brief(one: Comparison) -> str:
    where = f"{one.candidate} on {one.task}"
    if finding(one) not in {Finding.BETTER, Finding.WORSE}:
        return where
    return f"{where} ({points(one.acc.difference)} points)"


def _title(one: Comparison) -> str:
    beside = "" if one.against == BASE else f" beside {one.against}"
    return f"{one.candidate}{beside} on {one.task}"


def _named(name: str) -> str:
    return "the base" if name == BASE else name


def _questions(count: int) -> str:
    return "1 question" if count == 1 else f"{count:,} questions"

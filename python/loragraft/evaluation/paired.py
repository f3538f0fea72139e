"""Tests of paired results: the same questions, answered by two candidates."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, Final

import numpy as np

from loragraft.evaluation.bootstrap import DRAWS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Vector = NDArray[np.float64]

#: Below it a p-value is taken for a difference.
SIGNIFICANT: Final = 0.05
#: How sure one wants to be to see a difference that is there.
POWER: Final = 0.8
#: The fewest changes, all to one side, that McNemar's exact test takes for a difference.
_FEWEST: Final = 6
_BATCH: Final = 1 << 20


def mcnemar(gained: int, lost: int) -> float:
    """Return the exact two-sided p-value of McNemar's test (Psychometrika 12:153, 1947).

    Without a difference each question on which only one candidate is right falls to either with
    probability ½: p = min(1, 2 · P(X ≤ min(gained, lost))) with X of Binomial(gained + lost, ½).

    Args:
        gained: Questions that only the first candidate gets right.
        lost: Those that only the second gets right.
    """
    both, fewer = gained + lost, min(gained, lost)
    steps = np.arange(1, fewer + 1)
    # Logarithms of the binomial coefficients, which for thousands of questions exceed any float.
    logs = np.concatenate([[0.0], np.cumsum(np.log(both - steps + 1) - np.log(steps))])
    largest = float(logs[-1])
    tail = float(np.exp(logs - largest).sum())
    return min(1.0, math.exp(largest + math.log(2.0 * tail) - both * math.log(2.0)))


def sign_flips(values: Vector, seed: int, draws: int = DRAWS) -> Vector:
    """Return two-sided p-values of mean differences (Fisher's randomisation test).

    Where two candidates are alike, either could have had either result of a question: the sign of
    a difference is as good as its opposite. p = (1 + k) / (1 + draws), where k of the draws of
    random signs have a mean as far from 0 (Phipson and Smyth 2010, SAGMB 9:39).

    Args:
        values: Differences, (questions, figures).
        seed: Of the signs.
        draws: How many times signs are drawn; p is at least 1 / (1 + draws).

    Returns:
        (figures,).
    """
    count = len(values)
    generator = np.random.default_rng(seed)
    total = values.sum(axis=0)
    # Sums that are equal but for the order of their terms are equal.
    seen = np.abs(total) - 4.0 * count * np.finfo(np.float64).eps * np.abs(values).sum(axis=0)
    rows = max(1, _BATCH // count)
    beyond = np.zeros(values.shape[1], np.int64)
    for start in range(0, draws, rows):
        size = min(rows, draws - start)
        kept = generator.integers(0, 2, (size, count), np.int8).astype(np.float64)
        beyond += np.count_nonzero(np.abs(2.0 * (kept @ values) - total) >= seen, axis=0)
    return np.asarray((1.0 + beyond) / (1.0 + draws))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Return p-values corrected for their number (Holm 1979, Scand. J. Statist. 6:65).

    Step down: the smallest is multiplied by the number m of them, the next by m − 1, and so on;
    none becomes smaller than the one before it. To call all those below 0.05 a difference is
    wrong, even once, in at most 5 % of such evaluations, however the comparisons depend on each
    other.
    """
    count = len(p_values)
    corrected = [0.0] * count
    largest = 0.0
    for place, index in enumerate(sorted(range(count), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (count - place) * p_values[index]))
        corrected[index] = largest
    return tuple(corrected)


def smallest_share(questions: int, discordant: float) -> float:
    """Return the smallest difference of two shares that this many questions could show.

    A difference δ is seen at 5 % with a power of 80 % by n = (z_α √ψ + z_β √(ψ − δ²))² / δ²
    questions (Connor 1987, Biometrics 43:207), where ψ is the share on which one
    candidate alone is right. Solved for δ: c √ψ, with c = (z_α √n + z_β √(n + z_β² − z_α²)) /
    (n + z_β²). δ cannot exceed ψ; where so few answers differ, δ = ψ = c².

    Args:
        questions: n, at least 1.
        discordant: ψ, from 0 to 1.

    Returns:
        δ; 1, a difference of all answers, where the questions are too few for any.
    """
    alpha, beta = _quantiles()
    rest = max(0.0, questions + beta**2 - alpha**2)
    factor = (alpha * math.sqrt(questions) + beta * math.sqrt(rest)) / (questions + beta**2)
    least = max(factor**2, _FEWEST / questions)
    return min(1.0, max(factor * math.sqrt(discordant), least))


def smallest_mean(differences: Vector) -> float:
    """Return the smallest mean difference that could be shown: (z_α + z_β) · s / √n.

    At 5 % with a power of 80 %; s is the standard deviation of the differences, (questions,). A
    single question shows nothing: 0 where all differences are alike.
    """
    count = len(differences)
    deviation = float(differences.std(ddof=1)) if count > 1 else 0.0
    return sum(_quantiles()) * deviation / math.sqrt(count)


def _quantiles() -> tuple[float, float]:
    normal = NormalDist()
    return normal.inv_cdf(1.0 - SIGNIFICANT / 2.0), normal.inv_cdf(POWER)

"""Intervals and tests of paired differences, beside SciPy's and beside enumeration."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from loragraft.evaluation.bootstrap import Interval, mean_interval, ratio_interval, resampled_means
from loragraft.evaluation.paired import (
    holm,
    mcnemar,
    sign_flips,
    smallest_mean,
    smallest_share,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

DRAWS = 40_000
#: Standard error of a percentile of 2.5 % in standard deviations of the resamples; two of them
#: are compared, at four standard errors.
WAVER = 4.0 * math.sqrt(2.0 * 0.025 * 0.975 / DRAWS) / stats.norm.pdf(1.96)


def interval(values: NDArray[np.float64], draws: int = DRAWS, seed: int = 1) -> Interval:
    return mean_interval(values, resampled_means(values[:, None], seed, draws)[:, 0])


def near(found: Interval, expected: stats._resampling.BootstrapResult) -> bool:
    bounds = expected.confidence_interval
    slack = WAVER * expected.standard_error
    return abs(found.low - bounds.low) < slack and abs(found.high - bounds.high) < slack


def test_the_interval_of_a_skewed_mean_is_that_of_scipy() -> None:
    values = np.random.default_rng(0).exponential(size=20)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=DRAWS, method="BCa", rng=np.random.default_rng(2)
    )
    found = interval(values)
    assert near(found, expected)
    # The skew must be seen at all: the upper side is longer by more than the error allowed.
    upper, lower = found.high - values.mean(), values.mean() - found.low
    assert upper - lower > 4.0 * WAVER * expected.standard_error


def test_the_interval_of_a_ratio_is_that_of_scipy() -> None:
    rng = np.random.default_rng(3)
    bottom = rng.exponential(size=60)
    top = 0.5 * bottom + 0.3 * rng.standard_normal(60)
    means = resampled_means(np.column_stack([top, bottom]), 1, DRAWS)
    found = ratio_interval(top, bottom, *means.T)
    expected = stats.bootstrap(
        (top, bottom),
        lambda a, b, axis: a.mean(axis=axis) / b.mean(axis=axis),
        n_resamples=DRAWS, method="BCa", paired=True, rng=np.random.default_rng(2),
    )  # fmt: skip
    assert found is not None
    assert near(found, expected)


def test_a_ratio_to_nothing_certain_has_no_interval() -> None:
    rng = np.random.default_rng(4)
    top, noise = rng.normal(1.0, 1.0, 50), rng.standard_normal(50)
    for lead in (0.05, -1.0):
        bottom = noise - noise.mean() + lead
        means = resampled_means(np.column_stack([top, bottom]), 0)
        assert ratio_interval(top, bottom, *means.T) is None
    assert ratio_interval(top, np.zeros(50), np.ones(9), np.zeros(9)) is None
    bottom = noise - noise.mean() + 1.0
    means = resampled_means(np.column_stack([top, bottom]), 0)
    assert ratio_interval(top, bottom, *means.T) is not None


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(5)
    tries, covered = 400, 0
    for number in range(tries):
        values = rng.choice([1.0, 0.0, -1.0], size=150, p=[0.12, 0.82, 0.06])
        low, high = interval(values, 800, number)
        covered += low <= 0.06 <= high
    # 95 % within four standard errors of so few tries, and the bootstrap's own error of 1 %.
    assert abs(covered / tries - 0.95) < 4.0 * math.sqrt(0.95 * 0.05 / tries) + 0.01


@pytest.mark.parametrize("count", [7, 1172, 3_000_000])
def test_resampled_means_are_those_of_questions_drawn(count: int) -> None:
    values = np.arange(count, dtype=np.float64)[:, None] / count
    draws = 2 if count > 10_000 else 2000
    means = resampled_means(np.hstack([values, 2.0 * values]), 0, draws)
    assert means.shape == (draws, 2)
    # Both columns are drawn alike.
    assert np.allclose(means[:, 1], 2.0 * means[:, 0], rtol=1e-12)
    error = values.std() / math.sqrt(count)
    assert abs(means[:, 0].mean() - values.mean()) < 4.0 * error / math.sqrt(draws)
    # The seed draws them, and not what else is summed; products differ in their last digits.
    assert np.allclose(means[:, :1], resampled_means(values, 0, draws), rtol=1e-12)
    assert not np.allclose(means[:, :1], resampled_means(values, 1, draws), rtol=1e-9)


def test_the_interval_of_equal_differences_is_a_point() -> None:
    assert interval(np.zeros(9), 50) == (0.0, 0.0)
    assert interval(np.full(9, 0.25), 50) == (0.25, 0.25)


@given(st.integers(0, 4000), st.integers(0, 4000))
def test_mcnemar_is_the_binomial_test(gained: int, lost: int) -> None:
    both = gained + lost
    expected = stats.binomtest(gained, both).pvalue if both else 1.0
    # Sums of a few thousand logarithms, each rounded.
    assert mcnemar(gained, lost) == pytest.approx(expected, rel=1e-9, abs=1e-300)


def test_sign_flips_are_those_of_all_signs() -> None:
    values = np.random.default_rng(6).normal(0.4, 1.0, (11, 2))
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=11)))
    seen = np.abs(values.sum(axis=0)) * (1.0 - 1e-12)
    exact = np.mean(np.abs(signs @ values) >= seen, axis=0)
    found = sign_flips(values, 0, DRAWS)
    assert np.all(np.abs(found - exact) < 4.0 * np.sqrt(exact * (1.0 - exact) / DRAWS))


def test_sign_flips_take_equal_sums_for_equal() -> None:
    # Whatever the signs, sums of 0.1 in another order differ in the last digit.
    values = np.full((10, 1), 0.1)
    found = sign_flips(values, 0, DRAWS)[0]
    assert found == pytest.approx(2.0 / 2**10, abs=4.0 * math.sqrt(2.0 / 2**10 / DRAWS))
    assert sign_flips(np.zeros((10, 1)), 0)[0] == 1.0
    # 0.1 + 0.2 − 0.3 is not 0 in floats, but no sum of other signs is nearer to it.
    assert sign_flips(np.array([[0.1], [0.2], [-0.3]] * 2), 0)[0] == 1.0


def test_no_difference_is_beyond_all_chance() -> None:
    assert sign_flips(np.ones((100, 1)), 0, 999)[0] == 1.0 / 1000.0


def test_holm_steps_down() -> None:
    # As p.adjust of R has it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([0.6, 0.5]) == (1.0, 1.0)
    assert holm([]) == ()


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=9))
def test_holm_keeps_the_order_and_lies_below_bonferroni(p_values: list[float]) -> None:
    found = holm(p_values)
    pairs = sorted(zip(p_values, found, strict=True))
    assert [p for _, p in pairs] == sorted(found)
    for p, corrected in pairs:
        assert p <= corrected <= min(1.0, len(p_values) * p)


@given(st.integers(20, 20_000), st.floats(0.02, 1.0))
def test_the_smallest_share_needs_that_many_questions(count: int, discordant: float) -> None:
    found = smallest_share(count, discordant)
    alpha, beta = stats.norm.ppf([0.975, 0.8])
    # Where more answers would have to differ, they all differ to one side.
    psi = max(found, discordant)
    needed = (alpha * math.sqrt(psi) + beta * math.sqrt(psi - found**2)) ** 2 / found**2
    assert needed == pytest.approx(count, rel=1e-6)


def test_the_smallest_share_is_seen_four_times_of_five() -> None:
    count, discordant, tries = 1172, 0.2, 4000
    share = smallest_share(count, discordant)
    ways = [(discordant + share) / 2, (discordant - share) / 2, 1.0 - discordant]
    drawn = np.random.default_rng(7).multinomial(count, ways, tries)
    seen = np.mean([mcnemar(gained, lost) < 0.05 for gained, lost, _ in drawn])
    # The exact test is a little weaker than the normal one that the formula is of.
    assert 0.75 < seen < 0.8 + 4.0 * math.sqrt(0.16 / tries)


@pytest.mark.parametrize("count", [6, 7, 9, 100])
def test_with_no_change_the_smallest_share_is_one_that_can_be_shown(count: int) -> None:
    share = smallest_share(count, 0.0)
    assert mcnemar(round(share * count), 0) < 0.05
    assert share <= 9.0 / count


def test_five_questions_show_nothing() -> None:
    assert mcnemar(5, 0) > 0.05
    assert [smallest_share(count, 0.0) for count in (1, 5)] == [1.0, 1.0]


def test_the_smallest_mean_is_that_of_a_z_test() -> None:
    values = np.array([1.0, -1.0] * 50)
    expected = (1.959964 + 0.841621) * values.std(ddof=1) / 10.0
    assert smallest_mean(values) == pytest.approx(expected, rel=1e-6)
    assert smallest_mean(values[:1]) == 0.0

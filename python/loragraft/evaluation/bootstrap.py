"""The bootstrap of paired differences: how far a mean, or a ratio of two, may be off.

Questions are drawn with replacement, and with a question goes all that is known of it. Resamples
depend on the seed and the number of questions alone, so that the figures of one candidate do not
change with who else is evaluated.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vector = NDArray[np.float64]

#: With so many resamples a bound of a 95 % interval wavers by a hundredth of its distance.
DRAWS: Final = 10_000
_LEVELS: Final = (0.025, 0.975)
#: Numbers held at once, of one kind; 8 MB.
_BATCH: Final = 1 << 20


class Interval(NamedTuple):
    """Where a figure lies with 95 % confidence."""

    low: float
    high: float


def resampled_means(values: Vector, seed: int, draws: int = DRAWS) -> Vector:
    """Return the means of bootstrap resamples.

    Args:
        values: What is known of each question, (questions, figures), at least one question.
        seed: Of the resamples.
        draws: How many resamples.

    Returns:
        A mean per resample and figure, (draws, figures).
    """
    count = len(values)
    generator = np.random.default_rng(seed)
    rows = max(1, _BATCH // count)
    means = np.empty((draws, values.shape[1]))
    for start in range(0, draws, rows):
        size = min(rows, draws - start)
        taken = generator.integers(0, count, (size, count))
        taken += count * np.arange(size)[:, None]
        # How often each question was drawn: one product then serves all figures.
        times = np.bincount(taken.ravel(), minlength=size * count).reshape(size, count)
        means[start : start + size] = times.astype(np.float64) @ values
    return means / count


def mean_interval(values: Vector, means: Vector) -> Interval:
    """Return the interval of a mean, by BCa (Efron 1987, JASA 82:171).

    BCa shifts the percentiles of the resamples for their bias and for a standard error that
    changes with the mean; differences of right answers are skewed when most changes go one way.

    Args:
        values: (questions,).
        means: Of its resamples, (draws,), from `resampled_means`.
    """
    return _bca(float(values.sum() / len(values)), means, _centred(values))


def ratio_interval(
    top: Vector, bottom: Vector, top_means: Vector, bottom_means: Vector
) -> Interval | None:
    """Return the interval of mean(top) / mean(bottom), by BCa.

    A resample in which the denominator is not positive says that the ratio may be anything: it
    counts as ±∞, by the sign of its numerator.

    Args:
        top: (questions,).
        bottom: (questions,).
        top_means: Of its resamples, (draws,).
        bottom_means: Of the same resamples, (draws,).

    Returns:
        The interval; None where it has no end, since the denominator is not clearly positive.
    """
    whole, unit = float(top.sum()), float(bottom.sum())
    if unit <= 0.0:
        return None
    positive = bottom_means > 0.0
    ratios = np.where(top_means > 0.0, np.inf, -np.inf)
    np.divide(top_means, bottom_means, out=ratios, where=positive)
    found = _bca(whole / unit, ratios, _centred(top - whole / unit * bottom))
    return found if np.isfinite(found).all() else None


def _centred(values: Vector) -> Vector:
    return np.asarray(values - values.mean())


def _bca(estimate: float, draws: Vector, influence: Vector) -> Interval:
    """Return the bias-corrected and accelerated interval.

    Args:
        estimate: Of the sample itself.
        draws: Of its resamples.
        influence: By how much the estimate moves with the weight of a question, to scale,
            (questions,).
    """
    normal = NormalDist()
    below = np.count_nonzero(draws < estimate) + np.count_nonzero(draws == estimate) / 2
    share = below / len(draws)
    if not 0.0 < share < 1.0:
        return Interval(float(draws.min()), float(draws.max()))
    bias = normal.inv_cdf(share)
    spread = float(np.square(influence).sum()) ** 1.5
    skew = float((influence**3).sum()) / (6.0 * spread) if spread > 0.0 else 0.0
    levels = [_shifted(bias, skew, bias + normal.inv_cdf(level)) for level in _LEVELS]
    # An observed value, never one between two: these may be infinite.
    low, high = np.quantile(draws, levels, method="inverted_cdf")
    return Interval(float(low), float(high))


def _shifted(bias: float, skew: float, z: float) -> float:
    """Return the level at which BCa reads the resamples; at the pole of the formula, the end."""
    scale = 1.0 - skew * z
    if scale <= 0.0:
        return 1.0 if z > 0.0 else 0.0
    return NormalDist().cdf(bias + z / scale)

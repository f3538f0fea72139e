"""Where a spectrum steps down, and where the spectra of many modules do so together.

A LoRA of rank r that was merged leaves its mark at the same place in all modules: the step from
the r-th singular value to the next is sharper than those that follow. In a single module chance and
rounding can hide the step or feign another, in many modules together they cannot.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

from loragraft.extraction.ranks.floor import above_floor, count_above, floor_edge, rounding_floor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loragraft.extraction.ranks.spectrum import Spectrum

#: Steps that follow, to compare with.
_FOLLOWING: Final = 8
#: With fewer there is nothing to compare with.
_LEAST_FOLLOWING: Final = 3
#: Steps smaller than this are of the order of the rounding of single-precision values.
_RESOLUTION: Final = 1e-5
#: Sharper than by this factor is sharp enough; a few exact modules shall not outvote the others.
_SHARPEST: Final = 1000.0
#: A common step is sharper than those that follow by e to this power, and more where chance could
#: do it: steps between singular values of noise have logarithms of standard deviation 0.7, whose
#: mean over several matrices deviates less.
_COMMON: Final = 1.0
_CHANCE: Final = 2.5
#: Rounding explains a remainder of up to this multiple of its expected square.
_EXPLAINED: Final = 2.0
#: Errors that go with the size of the weights of a row or column have largest singular values of
#: up to about this multiple of the floor.
_PUSHED: Final = 2.0
#: Matrices looked at of a parameter that has one for each expert.
_SAMPLE: Final = 16
#: Share of the modules whose spectra must reach a rank for it to be considered.
_REACHED: Final = 0.5


class CommonStep(NamedTuple):
    """A place where many spectra step down together.

    Attributes:
        rank: The number of singular values before it.
        sharpness: Geometric mean, over the modules, of the step over those that follow.
    """

    rank: int
    sharpness: float


class Steps(NamedTuple):
    """The steps of one adapter parameter.

    Attributes:
        logs: ln of how much sharper the first, second, … step is than those that follow; the mean
            over the matrices looked at.
        explained: Whether rounding explains the energy that the leading 1, 2, … triplets leave out.
        above: Number of singular values above the floor, the most of any matrix.
        far_above: The same for twice the floor.
        matrices: How many matrices were looked at.
    """

    logs: list[float]
    explained: list[bool]
    above: int
    far_above: int
    matrices: int

    def ends_at(self, rank: int) -> bool:
        """Whether what follows the leading `rank` triplets can be rounding."""
        within = rank <= len(self.explained) and self.explained[rank - 1]
        return within and rank >= self.far_above

    def sharpness(self, rank: int) -> float:
        """Return ln of how much sharper the step after `rank` values is; −∞ if not known."""
        return self.logs[rank - 1] if rank <= len(self.logs) else -math.inf


def sharpness(values: Sequence[float]) -> list[float]:
    """Return ln of how much sharper each step of a spectrum is than those that follow.

    A step is k · ln(sₖ / sₖ₊₁), which is the same for all k where values fall by a power law. It is
    compared with the third quartile of the next eight.

    Args:
        values: Singular values, decreasing.
    """
    if not values or values[0] <= 0.0:
        return []
    least = values[0] * _RESOLUTION**2
    logs = [math.log(max(value, least)) for value in values]
    steps = [(k + 1) * (logs[k] - logs[k + 1]) + _RESOLUTION for k in range(len(logs) - 1)]
    return [
        math.log(min(steps[k] / _third_quartile(steps[k + 1 : k + 1 + _FOLLOWING]), _SHARPEST))
        for k in range(len(steps) - _LEAST_FOLLOWING)
    ]


def steps_of(spectrum: Spectrum) -> Steps:
    """Return the steps of one adapter parameter."""
    differing = [i for i, values in enumerate(spectrum.singular_values) if values]
    sample = differing
    if len(differing) > _SAMPLE:
        sample = [differing[i * len(differing) // _SAMPLE] for i in range(_SAMPLE)]
    further = spectrum.further or ((),) * len(spectrum.singular_values)
    found = [sharpness((*spectrum.singular_values[i], *further[i])) for i in sample]
    limit = _EXPLAINED * rounding_floor(spectrum.delta_square, spectrum.rounding_square)
    return Steps(
        logs=[math.fsum(column) / len(found) for column in zip(*found, strict=False)],
        explained=[square <= limit for square in spectrum.optimum[1:]],
        above=max((above_floor(spectrum, i) for i in differing), default=0),
        far_above=max((_far_above(spectrum, i) for i in differing), default=0),
        matrices=len(found),
    )


def common_step(modules: Sequence[Steps]) -> CommonStep | None:
    """Find where the spectra of modules step down together, None where they do not.

    In most of the modules, what follows the step must be no more than rounding can explain: then
    there is nothing behind it.
    """
    modules = [steps for steps in modules if steps.logs]
    if not modules:
        return None
    least = _COMMON + _CHANCE / math.sqrt(sum(steps.matrices for steps in modules))
    best = None
    for rank in range(1, max(len(steps.logs) for steps in modules) + 1):
        reached = [steps for steps in modules if rank <= len(steps.logs)]
        if len(reached) < _REACHED * len(modules):
            break
        mean = math.fsum(steps.logs[rank - 1] for steps in reached) / len(reached)
        if mean > least and 2 * sum(steps.ends_at(rank) for steps in reached) > len(reached):
            best, least = rank, mean
    return None if best is None else CommonStep(best, math.exp(least))


def _far_above(spectrum: Spectrum, matrix: int) -> int:
    edge = _PUSHED * floor_edge(spectrum, matrix)
    return count_above(spectrum.singular_values[matrix], edge)


def _third_quartile(values: Sequence[float]) -> float:
    return sorted(values)[(3 * len(values) - 1) // 4]

"""``--rank auto``: what stands above the rounding of the stored weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

from loragraft.extraction.ranks.steps import CommonStep, common_step, steps_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loragraft.extraction.ranks.spectrum import Spectrum
    from loragraft.extraction.ranks.steps import Steps

#: A step sharper than those that follow by this factor settles where a module's spectrum ends, if
#: it is near the floor: within this share of the values above it, or this many.
_SHARP: Final = math.log(4.0)
_NEAR: Final = 0.25
_LEAST_NEAR: Final = 2
#: Anywhere else it takes this factor, which noise hardly ever reaches (3.9 standard deviations).
_SHARPER: Final = math.log(15.0)
#: A group of modules has a rank of its own where its own step is sharper by this factor.
_OWN: Final = math.log(3.0)


class AutoRank(NamedTuple):
    """Keeps the singular values that rounding alone would not give.

    Where the spectra of many modules step down together at one rank, and what is left is no more
    than rounding, a LoRA of that rank was merged, and its modules all get this rank.

    Attributes:
        most: How many triplets to compute.
    """

    most: int
    fixed: bool = False

    def choose(self, spectra: Sequence[Spectrum]) -> list[int]:
        """Return the rank of every adapter parameter, 0 where nothing stands above rounding."""
        steps = [steps_of(spectrum) for spectrum in spectra]
        common = common_ranks([spectrum.group for spectrum in spectra], steps)
        return [
            min(self.most, spectrum.available, shared_rank(own, step) or own_rank(own))
            for spectrum, own, step in zip(spectra, steps, common, strict=True)
        ]


def common_ranks(groups: Sequence[str], steps: Sequence[Steps]) -> list[CommonStep | None]:
    """Return for every adapter parameter the rank that it may share with others.

    Args:
        groups: What each belongs to, such as ``q_proj``; a group can have a rank of its own.
        steps: Theirs.
    """
    overall = common_step(steps)
    members: dict[str, list[Steps]] = {}
    for group, own in zip(groups, steps, strict=True):
        members.setdefault(group, []).append(own)
    found = {group: _of_group(of, overall) for group, of in members.items()}
    return [found[group] for group in groups]


def _of_group(group: Sequence[Steps], overall: CommonStep | None) -> CommonStep | None:
    """Return a group's own step where it is so sharp that the overall one cannot be its rank."""
    own = common_step(group)
    if own is None or overall is None:
        return own or overall
    there = [steps.logs[overall.rank - 1] for steps in group if overall.rank <= len(steps.logs)]
    mean = math.fsum(there) / len(there) if there else 0.0
    return own if math.log(own.sharpness) > mean + _OWN else overall


def shared_rank(steps: Steps, common: CommonStep | None) -> int | None:
    """Return the rank that a module shares with others, None where it cannot be its own."""
    if common is None or common.rank > len(steps.explained):
        return None
    sharp = steps.sharpness(common.rank)
    ends = steps.ends_at(common.rank)
    ends = ends or (sharp > _SHARPER and steps.explained[common.rank - 1])
    return common.rank if ends and (steps.above > 0 or sharp > _SHARP) else None


def own_rank(steps: Steps) -> int:
    """Return the rank that the spectrum of a module tells by itself.

    It is the number of singular values above the floor, or that before a sharp step.
    """
    reach = max(int(_NEAR * steps.above), _LEAST_NEAR)
    ranks = [rank for rank in range(1, len(steps.logs) + 1) if steps.ends_at(rank)]
    near = [rank for rank in ranks if abs(rank - steps.above) <= reach] if steps.above else []
    for candidates, least in ((near, _SHARP), (ranks, _SHARPER)):
        sharpest = max(candidates, key=steps.sharpness, default=0)
        if sharpest and steps.sharpness(sharpest) > least:
            return sharpest
    return steps.above

"""``--rank energy=`` and ``--rank error=``: the least rank that keeps a share of each module."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

from loragraft.errors import MismatchError
from loragraft.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from loragraft.extraction.ranks.spectrum import Spectrum


#: Of the sums of squares, so that 0.8 is reached by 4 of 5.
_ROUNDING: Final = 1e-12


class EnergyRank(NamedTuple):
    """The least rank at which a module keeps a share of its ‖ΔW‖², by the factors as written.

    Attributes:
        energy: The share, 1 − ‖ΔW − scaling·B·A‖² / ‖ΔW‖², between 0 and 1.
        most: How many triplets to compute.
    """

    energy: float
    most: int
    fixed: bool = False

    def choose(self, spectra: Sequence[Spectrum]) -> list[int]:
        """Return the rank of every adapter parameter.

        Raises:
            MismatchError: A module keeps less at the largest rank that was computed.
        """
        return _least_ranks(
            spectra,
            1.0 - self.energy,
            _Words(
                f"energy={self.energy:g}",
                self.most,
                lambda left: f"keeps {_rounded_down(1.0 - left)} of ‖ΔW‖²",
                "ask for less energy",
            ),
        )


class ErrorRank(NamedTuple):
    """The least rank at which a module's relative error is small enough, as written.

    Attributes:
        error: The largest ‖ΔW − scaling·B·A‖ / ‖ΔW‖, between 0 and 1.
        most: How many triplets to compute.
    """

    error: float
    most: int
    fixed: bool = False

    def choose(self, spectra: Sequence[Spectrum]) -> list[int]:
        """Return the rank of every adapter parameter.

        Raises:
            MismatchError: A module's error is larger at the largest rank that was computed.
        """
        return _least_ranks(
            spectra,
            self.error**2,
            _Words(
                f"error={self.error:g}",
                self.most,
                lambda left: f"leaves a relative error of {_rounded_up(math.sqrt(left))}",
                "allow a larger error",
            ),
        )


class _Words(NamedTuple):
    """How to say that a rule cannot be met."""

    rule: str
    most: int
    reached: Callable[[float], str]
    give_way: str


def _least_ranks(spectra: Sequence[Spectrum], share: float, words: _Words) -> list[int]:
    """Return the least ranks that leave out no more than a share of ‖ΔW‖²."""
    ranks: list[int] = []
    unmet: list[tuple[Spectrum, float]] = []
    for spectrum in spectra:
        left_out, limit = spectrum.residual, (share + _ROUNDING) * spectrum.delta_square
        rank = next((rank for rank, square in enumerate(left_out) if square <= limit), None)
        if rank is None:
            unmet.append((spectrum, min(left_out)))
        else:
            ranks.append(rank)
    if unmet:
        raise _not_met(unmet, share, words)
    return ranks


def _not_met(unmet: Sequence[tuple[Spectrum, float]], share: float, words: _Words) -> MismatchError:
    """Name the module that is farthest from the rule, and what would meet it."""
    worst, best = max(unmet, key=lambda pair: pair[1] / pair[0].delta_square)
    others = f", and {counted(len(unmet) - 1, 'other module')} fall short" if unmet[1:] else ""
    needed = max(_needed(spectrum, share) for spectrum, _ in unmet)
    if needed > words.most:
        remedy = f"--max-rank {needed} might do, less will not, or {words.give_way}"
    else:
        remedy = f"no rank meets it with factors of this --dtype: {words.give_way}"
    return MismatchError(
        f"--rank {words.rule}: rank {worst.available} of {worst.name or 'a module'}"
        f" {words.reached(best / worst.delta_square)}{others}; {remedy}"
    )


def _needed(spectrum: Spectrum, share: float) -> int:
    """Return a rank below which the rule cannot be met: no triplet to come exceeds the last."""
    missing = spectrum.optimum[-1] - share * spectrum.delta_square
    if missing <= 0.0 or not spectrum.gains[-1:] or spectrum.gains[-1] <= 0.0:
        return spectrum.available
    rank = spectrum.available + math.ceil(missing / spectrum.gains[-1])
    return min(rank, *spectrum.shape)


def _rounded_down(share: float) -> str:
    return f"{math.floor(1e4 * share) / 100:.2f}%"


def _rounded_up(share: float) -> str:
    return f"{math.ceil(1e4 * share) / 1e4:.4f}"

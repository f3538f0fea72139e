"""Rank rules: how many singular triplets of a module are written.

A rule sees the leading singular values of one factorisation. It never asks for another one, so a
new rule is a new class here and nothing else.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from loragraft.errors import UsageError

_LATER = ("auto", "energy=", "error=", "budget=")


class Spectrum(NamedTuple):
    """What the factorisation of one module's ΔW found.

    Attributes:
        singular_values: The leading ones, decreasing; as many as the rule's `most` asked for.
        delta_square: ‖ΔW‖² (Frobenius).
        rounding_square: Expected squared norm of the rounding that storing W_tuned implies.
    """

    singular_values: tuple[float, ...]
    delta_square: float
    rounding_square: float


class RankRule(Protocol):
    """Chooses the rank of a module.

    Attributes:
        most: How many triplets to factor at most.
    """

    @property
    def most(self) -> int:
        """Largest rank the rule can choose; the factorisation computes this many triplets."""

    @property
    def fixed(self) -> bool:
        """Whether the rule always chooses `most`, so that sizes are known beforehand."""

    def choose(self, spectrum: Spectrum) -> int:
        """Return the rank to write, 1 to ``len(spectrum.singular_values)``."""


class FixedRank(NamedTuple):
    """The same rank for every module that is large enough."""

    most: int
    fixed: bool = True

    def choose(self, spectrum: Spectrum) -> int:
        """Return every triplet that was computed."""
        return len(spectrum.singular_values)


def parse_rank(value: int | str) -> RankRule:
    """Read the option ``--rank``.

    Args:
        value: A positive integer, as a number or as text.

    Raises:
        UsageError: Anything else.
    """
    text = str(value).strip()
    if text.startswith(_LATER):
        raise UsageError(f"--rank {text}: this rule is not available yet; give a number such as 16")
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise UsageError(f"--rank {text}: expected a whole number of at least 1, such as 16")
    return FixedRank(int(text))

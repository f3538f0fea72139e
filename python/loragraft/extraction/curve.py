"""What every rank would keep, and what it would cost."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loragraft.extraction.ranks.spectrum import Spectrum


class Curve(NamedTuple):
    """The energy that modules of one kind keep at each of several ranks.

    Attributes:
        kind: Such as ``q_proj``, or ``all``.
        modules: How many there are.
        ranks: Increasing. A module that has no more triplets keeps what it has.
        energy: Share of the kind's summed ‖ΔW‖² kept, by the factors as written.
        parameters: Numbers in the factors.
    """

    kind: str
    modules: int
    ranks: tuple[int, ...]
    energy: tuple[float, ...]
    parameters: tuple[int, ...]

    def to_json(self, item: int) -> dict[str, Any]:
        """Return the curve as plain data.

        Args:
            item: Bytes per number of the factors.
        """
        return {
            "kind": self.kind,
            "modules": self.modules,
            "ranks": list(self.ranks),
            "energy": list(self.energy),
            "bytes": [item * count for count in self.parameters],
        }


def ladder(most: int) -> tuple[int, ...]:
    """Return 1, 2, 4, … up to `most`, and `most` itself."""
    steps = [1 << bit for bit in range(most.bit_length()) if 1 << bit < most]
    return (*steps, most) if most else ()


def curve(kind: str, spectra: Sequence[Spectrum], ranks: Sequence[int]) -> Curve:
    """Return the curve of modules whose weights differ; at least one."""
    left_out = [spectrum.residual for spectrum in spectra]
    total = math.fsum(squares[0] for squares in left_out)
    return Curve(
        kind=kind,
        modules=len(spectra),
        ranks=tuple(ranks),
        energy=tuple(
            1.0 - math.fsum(squares[min(rank, len(squares) - 1)] for squares in left_out) / total
            for rank in ranks
        ),
        parameters=tuple(
            sum(min(rank, s.available) * s.parameters_per_rank for s in spectra) for rank in ranks
        ),
    )


def curves(spectra: Sequence[Spectrum]) -> tuple[Curve, ...]:
    """Return a curve for every group, in the order in which they first appear, and for all.

    Modules that are equal on both sides are passed over; without any other, there is no curve.
    """
    groups: dict[str, list[Spectrum]] = {}
    for spectrum in spectra:
        if spectrum.available and spectrum.delta_square > 0.0:
            groups.setdefault(spectrum.group, []).append(spectrum)
    changed = [spectrum for members in groups.values() for spectrum in members]
    ranks = ladder(max((spectrum.available for spectrum in changed), default=0))
    found = [curve(group, members, ranks) for group, members in groups.items()]
    return (*found, curve("all", changed, ranks)) if changed else ()

"""How many dimensions a subspace has: as many as asked for, or as hold a share of the energy."""

from __future__ import annotations

from typing import Final, NamedTuple

from loragraft.errors import UsageError
from loragraft.wording import quoted

_ENERGY: Final = "energy="
_MOST: Final = 1 << 20


class SubspaceRank(NamedTuple):
    """The rule for the dimension of a weight's subspaces.

    Attributes:
        most: So many dimensions, or all where a weight has fewer; 0 where ``energy`` decides.
        energy: The fewest dimensions whose singular values hold this share of ‖W‖².
    """

    most: int
    energy: float = 0.0

    def __str__(self) -> str:
        return str(self.most) if self.most else f"{_ENERGY}{self.energy:g}"


def parse_subspace_rank(text: str | int) -> SubspaceRank:
    """Read ``--subspace-rank``: a number of dimensions, or ``energy=0.9``.

    Raises:
        UsageError: It is neither.
    """
    word = str(text).strip()
    try:
        if word.startswith(_ENERGY):
            share = float(word.removeprefix(_ENERGY))
            if 0.0 < share <= 1.0:
                return SubspaceRank(0, share)
        elif 1 <= int(word) <= _MOST:
            return SubspaceRank(int(word))
    except ValueError:
        pass
    raise UsageError(
        f"--subspace-rank {quoted(word)}: expected a number of at least 1, or energy=SHARE with a"
        " share above 0 and at most 1"
    )

"""An adapter's changes as far off as another machine's arithmetic may put them.

BLAS sums a product in an order of its own on every machine, which can put a weight that lies at the
boundary between two stored numbers to the other side. Adding the change and rounding are monotone:
what comes out alike with the change nudged down and up by the bound comes out so everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from loragraft.adapter.delta import Delta, DeltaReader

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loragraft.adapter.placement import Placement
    from loragraft.tensor_reader import TensorReader

#: Down and up.
SIGNS: Final = (-1, 1)


@dataclass(frozen=True, slots=True)
class NudgedDelta(Delta):
    """The lower or upper end of what a change may be.

    Attributes:
        sign: -1 or 1.
    """

    sign: int

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return rows ``start:stop``, moved by their bound."""
        # Not super(): slots make the class anew.
        product = Delta.rows(self, start, stop)
        nudge = np.add if self.sign > 0 else np.subtract
        with np.errstate(over="ignore", invalid="ignore"):
            return nudge(product, self.bound(start, stop), out=product)


class NudgedDeltaReader(DeltaReader):
    """Reads changes, all of them moved down or all of them up."""

    def __init__(self, reader: TensorReader, sign: int) -> None:
        """Take what reads the adapter's tensors, and one of `SIGNS`."""
        super().__init__(reader)
        self._sign = sign

    def delta(self, placement: Placement, expert: int = 0, *, transposed: bool) -> NudgedDelta:
        """Read both factors of a weight; see `DeltaReader.delta`."""
        found = super().delta(placement, expert, transposed=transposed)
        return NudgedDelta(found.left, found.right, found.scaling, self._sign)

"""What lies between the output of a model's last projections and its head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from loragraft.errors import MismatchError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float32]

#: How far a measured gain may differ from place to place, relative to its largest.
_SAME: Final = 1e-3


@dataclass(frozen=True, slots=True)
class RmsNorm:
    """z = g ⊙ h / √(mean h² + ε) (Zhang and Sennrich, arXiv 1910.07467).

    Attributes:
        gain: g, (d,).
        epsilon: ε.
    """

    gain: Array
    epsilon: float = 0.0

    def __call__(self, values: Array) -> Array:
        """Norm rows, (places, d)."""
        return np.asarray(values * self._inverse(values) * self.gain)

    def back(self, values: Array, gradient: Array) -> Array:
        """Return the gradient by the rows that were normed.

        Args:
            values: h, (places, d).
            gradient: By z, (places, d).
        """
        inverse = self._inverse(values)
        own = gradient * self.gain
        along = np.mean(own * values, axis=1, keepdims=True)
        return np.asarray(inverse * own - values * inverse**3 * along)

    def slope(self, values: Array) -> Array:
        """Return dz/dh on average over rows, along the diagonal, (d,)."""
        return self.gain / np.float32(np.sqrt(np.mean(np.square(values))))

    def _inverse(self, values: Array) -> Array:
        square = np.mean(np.square(values), axis=1, keepdims=True) + self.epsilon
        return np.asarray(1.0 / np.sqrt(square))


def measured_norm(inputs: Array, outputs: Array, name: str, epsilon: float = 0.0) -> RmsNorm:
    """Find the gain of a norm from what it reads and writes, whatever its code makes of a weight.

    Args:
        inputs: h, (places, d).
        outputs: z, (places, d).
        name: Of the module.
        epsilon: ε, which counts where a module writes little.

    Raises:
        MismatchError: It is no RMSNorm.
    """
    unit = inputs / np.sqrt(np.mean(np.square(inputs), axis=1, keepdims=True) + epsilon)
    square = np.square(unit).sum(axis=0)
    gain = np.divide(
        (unit * outputs).sum(axis=0), square, out=np.zeros_like(square), where=square > 0
    )
    error = np.linalg.norm(unit * gain - outputs)
    if error > _SAME * np.linalg.norm(outputs):
        raise MismatchError(
            f"{name} is no RMSNorm: distill knows no other way from the last projections to the"
            " head; choose another --method"
        )
    return RmsNorm(gain.astype(np.float32), epsilon)


@dataclass(frozen=True, slots=True)
class Tail:
    """The way from the output y of a projection to the last hidden state z.

    What the blocks after it make of the change is left out: h + Δ takes the residual stream.

    Attributes:
        outputs: y as the projection writes it now, (places, d).
        stream: h before the last norm, (places, d).
        after: The norm between y and the stream, as in Gemma 2; None where there is none.
        last: The norm before the head.
    """

    outputs: Array
    stream: Array
    after: RmsNorm | None
    last: RmsNorm

    def states(self, change: Array) -> Array:
        """Return z after the projection writes y + change."""
        return self.last(self._stream(change))

    def back(self, change: Array, gradient: Array) -> Array:
        """Return the gradient by the change, given that by z."""
        found = self.last.back(self._stream(change), gradient)
        return found if self.after is None else self.after.back(self.outputs + change, found)

    def slope(self) -> Array:
        """Return dz/dy on average over places, along the diagonal, (d,)."""
        found = self.last.slope(self.stream)
        return found if self.after is None else found * self.after.slope(self.outputs)

    def _stream(self, change: Array) -> Array:
        if self.after is None:
            return self.stream + change
        return self.stream + self.after(self.outputs + change) - self.after(self.outputs)

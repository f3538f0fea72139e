"""Sums over a pair of weight slabs, from which every figure of a verification follows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from loragraft.weights.codes import narrow, widen

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

#: Per weight dtype: bits of the stored fraction, smallest exponent of a normal number.
_PRECISION: Final = {
    "BF16": (7, -126),
    "F16": (10, -14),
    "F32": (23, -126),
    "F8_E4M3": (3, -6),
    "F8_E5M2": (2, -14),
}


@dataclass(frozen=True, slots=True)
class Tally:
    """Sums over the weights of one tensor, or of a slab of it; all but `exact` in float64.

    Attributes:
        weight: Σ W_base².
        delta: Σ (W_tuned − W_base)².
        residual: Σ (W_tuned − W_base − scaling·B·A)².
        rounding: Expected Σ of squared storage errors of W_tuned, see `rounding_energy`.
        exact: Number of weights that W_base + scaling·B·A, rounded to the tuned dtype,
            reproduces bit for bit.
    """

    weight: float
    delta: float
    residual: float = 0.0
    rounding: float = 0.0
    exact: int = 0

    @property
    def finite(self) -> bool:
        """Whether neither weights nor residual hold NaN or Inf.

        A square of a finite float32 is finite in float64, so the sums tell.
        """
        return math.isfinite(self.weight + self.delta + self.residual)


def bits(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return the same memory as unsigned integers, for comparisons bit by bit."""
    return np.ascontiguousarray(values).view(f"u{values.itemsize}")


def rounding_energy(tuned: NDArray[np.float32], dtype: str) -> float:
    """Return the expected sum of squared rounding errors of values stored as ``dtype``.

    A value is taken to be off by a uniform share of its unit in the last place, so each adds
    ulp²/12.

    Args:
        tuned: Widened values, finite.
        dtype: Code of the format that they are stored in.
    """
    fraction, lowest = _PRECISION[dtype]
    exponents = (tuned.view(np.uint32) >> 23).astype(np.uint8).ravel()
    counts = np.bincount(exponents, minlength=256)
    ulp_exponents = np.maximum(np.arange(256) - 127, lowest) - fraction
    return float(counts @ np.exp2(2.0 * ulp_exponents)) / 12.0


def _square(values: NDArray[np.float64]) -> float:
    flat = values.ravel()
    # Not BLAS: its threads cost more than they gain here, most of all on a busy machine.
    return float(np.einsum("i,i->", flat, flat))


def tally_change(base: NDArray[np.float32], tuned: NDArray[np.float32]) -> Tally:
    """Sum up a pair of slabs of equal shape that no adapter module changes.

    The difference of two float32 values is formed in float64, where it is exact unless their
    exponents are more than 29 apart.
    """
    with np.errstate(invalid="ignore"):
        weight = base.astype(np.float64)
        return Tally(_square(weight), _square(np.subtract(tuned, weight)))


def tally_module(
    base: NDArray[np.float32],
    tuned_stored: NDArray[np.generic],
    dtype: str | None,
    delta: NDArray[np.float32],
) -> Tally:
    """Sum up a pair of slabs that an adapter module changes.

    Args:
        base: W_base, widened, ``(rows, columns)``.
        tuned_stored: W_tuned in its storage type, of the same shape.
        dtype: Safetensors code of ``tuned_stored``; None where W_tuned is codes with scales and
            these are their values in float32: then neither `rounding` nor `exact` are known.
        delta: scaling·B·A, of the same shape.
    """
    tuned = widen(tuned_stored, dtype or "F32")
    with np.errstate(invalid="ignore", over="ignore"):
        work = base.astype(np.float64)
        weight = _square(work)
        np.subtract(tuned, work, out=work)
        change = _square(work)
        work -= delta
        residual = _square(work)
        if dtype is None:
            return Tally(weight, change, residual)
        merged = narrow(base + delta, dtype)
    exact = int(np.count_nonzero(bits(merged) == bits(tuned_stored)))
    return Tally(weight, change, residual, rounding_energy(tuned, dtype), exact)


def total(tallies: Iterable[Tally]) -> Tally:
    """Add tallies up, each sum rounded once."""
    kept = list(tallies)
    return Tally(
        math.fsum(tally.weight for tally in kept),
        math.fsum(tally.delta for tally in kept),
        math.fsum(tally.residual for tally in kept),
        math.fsum(tally.rounding for tally in kept),
        sum(tally.exact for tally in kept),
    )

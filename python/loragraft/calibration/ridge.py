"""Ridge regression between the rows of two models, for all ridges at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

#: Singular values of rows below this part of the largest are those of rounding to float32.
NOISE: Final = 2.0**-20
#: Ridges tried, as parts of the mean squared coordinate times the places. The least lies where
#: rounding of the Gram matrix begins to count.
_PARTS: Final = tuple(10.0 ** (-power) for power in range(13, -3, -1))
#: Errors up to so many times the least count as the least.
_FLAT: Final = 1.01
#: Of wider rows so many random combinations are looked at to tell ridges apart.
_COLUMNS: Final = 256


class _Spectrum(NamedTuple):
    """Eigenvectors of FᵀF, or of FFᵀ where there are fewer places than coordinates.

    Attributes:
        basis: Eigenvectors as columns.
        values: Eigenvalues, none negative.
        dual: They are those of FFᵀ.
        unit: What ridges are given in.
    """

    basis: Array
    values: Array
    dual: bool
    unit: float


@dataclass(frozen=True, slots=True)
class Ridge:
    """M = Gᵀ F (Fᵀ F + λI)⁻¹ = argmin ‖F Mᵀ − G‖² + λ‖M‖² (Hoerl and Kennard, 1970).

    It is applied to a few columns at a time and never formed.

    Attributes:
        origin: F, (places, m_from).
        goal: G, (places, m_to).
        spectrum: Of F.
        ridge: λ.
    """

    origin: Array
    goal: Array
    spectrum: _Spectrum
    ridge: float

    @classmethod
    def of(cls, origin: Array, goal: Array, part: float) -> Ridge:
        """Make the map whose λ is a part of the unit of F."""
        spectrum = _spectrum(origin)
        return cls(origin, goal, spectrum, part * spectrum.unit)

    def forward(self, columns: Array) -> Array:
        """Return M columns, (m_from, k) to (m_to, k)."""
        if self.spectrum.dual:
            return np.asarray(self.goal.T @ self._solved(self.origin @ columns))
        return np.asarray(self.goal.T @ (self.origin @ self._solved(columns)))

    def backward(self, columns: Array) -> Array:
        """Return Mᵀ columns, (m_to, k) to (m_from, k)."""
        if self.spectrum.dual:
            return np.asarray(self.origin.T @ self._solved(self.goal @ columns))
        return self._solved(self.origin.T @ (self.goal @ columns))

    def _solved(self, columns: Array) -> Array:
        """Return (FᵀF + λI)⁻¹ columns, or the same with FFᵀ."""
        basis, values = self.spectrum.basis, self.spectrum.values
        return np.asarray(basis @ ((basis.T @ columns) / (values + self.ridge)[:, None]))


class RidgePath:
    """The held-out errors of all ridges, for one F and any G."""

    def __init__(self, origin: Array, held: Array) -> None:
        """Prepare.

        Args:
            origin: F where maps are made, (places, m_from).
            held: F where they are tried, (others, m_from).
        """
        self._origin = origin
        self._spectrum = _spectrum(origin)
        seen = held @ origin.T if self._spectrum.dual else held
        self._seen = seen @ self._spectrum.basis

    def best(self, goal: Array, held: Array) -> tuple[float, float]:
        """Return a ridge, as a part of the unit, and its held-out squared error.

        It is the largest that errs hardly more than the best one: where rows hardly vary held-out
        errors do not see how much a map amplifies, but an update may lie just there.

        Args:
            goal: G where maps are made.
            held: G where they are tried.
        """
        errors = self._errors(sketched(goal), sketched(held), _PARTS)
        most = _FLAT * min(errors)
        part = max(one for one, error in zip(_PARTS, errors, strict=True) if error <= most)
        return part, self._errors(goal, held, (part,))[0]

    def _errors(self, goal: Array, held: Array, parts: Sequence[float]) -> list[float]:
        basis, values, dual, unit = self._spectrum
        inner = basis.T @ (goal if dual else self._origin.T @ goal)
        return [
            float(np.square(held - (self._seen / (values + part * unit)) @ inner).sum())
            for part in parts
        ]


def sketched(rows: Array) -> Array:
    """Return rows whose squared distances are on average those of the given ones, and no wider."""
    width = rows.shape[1]
    if width <= _COLUMNS:
        return rows
    columns = np.random.default_rng(width).standard_normal((width, _COLUMNS))
    return np.asarray(rows @ (columns / _COLUMNS**0.5))


def span(rows: Array, most: int) -> Array:
    """Return an orthonormal basis of the space that rows lie in, (m, k), but for rounding.

    Args:
        rows: (places, m).
        most: Dimensions that it has at most.
    """
    basis, values, dual, _ = _spectrum(rows)
    order = np.argsort(values)[::-1][:most]
    kept = order[values[order] > NOISE**2 * values.max()]
    if not dual:
        return basis[:, kept]
    return np.asarray(rows.T @ (basis[:, kept] / np.sqrt(values[kept])))


def _spectrum(rows: Array) -> _Spectrum:
    dual = len(rows) < rows.shape[1]
    values, basis = np.linalg.eigh(rows @ rows.T if dual else rows.T @ rows)
    unit = float(np.square(rows).mean()) * len(rows)
    return _Spectrum(basis, np.maximum(values, 0.0), dual, unit or 1.0)

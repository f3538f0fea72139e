"""Linear maps between spaces of outputs, or of inputs, in factored form.

A map m_t × m_s is applied to a few columns at a time and is never formed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Columns = NDArray[np.float64]


class LinearMap(Protocol):
    """A map of the source's space into the target's."""

    def __call__(self, columns: Columns) -> Columns:
        """Apply the map to columns: (m_s, k) to (m_t, k)."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The map that changes nothing."""

    def __call__(self, columns: Columns) -> Columns:
        """Return the columns as they are."""
        return columns


@dataclass(frozen=True, slots=True)
class Factored:
    """left · rightᵀ.

    Attributes:
        left: (m_t, r).
        right: (m_s, r).
    """

    left: NDArray[np.floating]
    right: NDArray[np.floating]

    def __call__(self, columns: Columns) -> Columns:
        """Apply the right factor first; nothing larger than the columns is formed."""
        inner = np.asarray(self.right, np.float64).T @ columns
        return np.asarray(self.left, np.float64) @ inner


@dataclass(frozen=True, slots=True)
class Matrix:
    """A map that is held as a whole, for it serves many modules.

    Attributes:
        values: (m_t, m_s).
    """

    values: NDArray[np.float64]

    def __call__(self, columns: Columns) -> Columns:
        """Apply it."""
        return self.values @ columns


@dataclass(frozen=True, slots=True)
class Diagonal:
    """Every coordinate times a number of its own.

    Attributes:
        values: (m,).
    """

    values: NDArray[np.float64]

    def __call__(self, columns: Columns) -> Columns:
        """Scale the rows."""
        return self.values[:, None] * columns


@dataclass(frozen=True, slots=True)
class Complement:
    """I − U Uᵀ, the projection on what a subspace leaves.

    Attributes:
        basis: U, (m, r), orthonormal columns.
    """

    basis: NDArray[np.floating]

    def __call__(self, columns: Columns) -> Columns:
        """Subtract what lies in the subspace."""
        return columns - Factored(self.basis, self.basis)(columns)


@dataclass(frozen=True, slots=True)
class Chain:
    """One map after the other, the first one first."""

    maps: tuple[LinearMap, ...]

    def __call__(self, columns: Columns) -> Columns:
        """Apply them in turn."""
        for one in self.maps:
            columns = one(columns)
        return columns


@dataclass(frozen=True, slots=True)
class Completed:
    """One map inside of a subspace, another one outside of it.

    Attributes:
        basis: Of the subspace, (m_s, r), orthonormal columns.
        inside: The map for what lies in it.
        outside: The map for what is left.
    """

    basis: NDArray[np.float64]
    inside: LinearMap
    outside: LinearMap

    def __call__(self, columns: Columns) -> Columns:
        """Take the columns apart, and map each part."""
        within = self.basis @ (self.basis.T @ columns)
        return self.inside(within) + self.outside(columns - within)


@dataclass(frozen=True, slots=True)
class Resized:
    """Cut off, or fill up with zeros: coordinate i becomes coordinate i.

    Attributes:
        rows: Dimension of the target's space.
    """

    rows: int

    def __call__(self, columns: Columns) -> Columns:
        """Return as many rows as the target's space has dimensions."""
        out = np.zeros((self.rows, columns.shape[1]))
        kept = min(self.rows, columns.shape[0])
        out[:kept] = columns[:kept]
        return out


class Term(NamedTuple):
    """One summand P ΔW_s Qᵀ of a transferred update.

    Attributes:
        outputs: P, from the source's output space to the target's.
        inputs: Q, from the source's input space to the target's.
    """

    outputs: LinearMap
    inputs: LinearMap

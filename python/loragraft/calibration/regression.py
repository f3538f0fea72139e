"""Linear maps that bring what one model computes at some places to what another computes there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Rows = NDArray[np.floating]

#: Ridges tried, as parts of the mean eigenvalue of the Gram matrix.
_RIDGES: Final = tuple(10.0 ** (-power) for power in range(12, -2, -1))
#: Beyond so many coordinates an orthogonal map is not looked for: it costs the cube of them.
_MOST: Final = 2048
#: Every so many places one is held out, to choose by.
_EACH: Final = 5
#: A held-out error is no smaller than another unless it is so many times smaller.
_NO_WORSE: Final = 1.02


class Fit(NamedTuple):
    """A map and how well it predicts what it was not made from.

    Attributes:
        map: ``forward`` gives M columns, ``backward`` Mᵀ columns.
        name: ``ridge`` or ``procrustes``.
        explained: Share of the squared norm of held-out rows that it predicts; 0 or less where
            it predicts nothing.
    """

    map: Ridge | Orthogonal
    name: str
    explained: float


@dataclass(frozen=True, slots=True)
class Ridge:
    """M = Gᵀ F (Fᵀ F + λI)⁻¹ = argmin ‖F Mᵀ − G‖² + λ‖M‖² (Hoerl and Kennard, 1970).

    It is kept as the thin SVD of F: M = Gᵀ U · S / (S² + λ) · Vᵀ.

    Attributes:
        U: (places, k).
        s: (k,).
        Vt: (k, m_from).
        goal: G, (places, m_to).
        ridge: λ.
    """

    U: Array
    s: Array
    Vt: Array
    goal: Rows
    ridge: float

    def forward(self, columns: Array) -> Array:
        """Return M columns, (m_from, k) to (m_to, k)."""
        inner = (self._shrunk[:, None] * (self.Vt @ columns)).T @ self.U.T
        return (inner @ self.goal.astype(np.float64)).T

    def backward(self, columns: Array) -> Array:
        """Return Mᵀ columns, (m_to, k) to (m_from, k)."""
        inner = self.U.T @ (self.goal.astype(np.float64) @ columns)
        return np.asarray(self.Vt.T @ (self._shrunk[:, None] * inner))

    @property
    def _shrunk(self) -> Array:
        return np.asarray(self.s / (np.square(self.s) + self.ridge))


@dataclass(frozen=True, slots=True)
class Orthogonal:
    """M = c U Vᵀ with U S Vᵀ the thin SVD of Gᵀ F (Schönemann, Psychometrika 31, 1966).

    Attributes:
        values: M, (m_to, m_from).
    """

    values: Array

    def forward(self, columns: Array) -> Array:
        """Return M columns."""
        return np.asarray(self.values @ columns)

    def backward(self, columns: Array) -> Array:
        """Return Mᵀ columns."""
        return np.asarray(self.values.T @ columns)


def fit(origin: Rows, goal: Rows) -> Fit:
    """Find the map from rows of one model to those of another.

    Every fifth place is held out; ridge and kind of map are chosen by the error there, then the
    map is made from all places. An orthogonal map is preferred where it is no worse, since it
    needs no ridge.

    Args:
        origin: F, (places, m_from).
        goal: G, (places, m_to).
    """
    f, g = origin.astype(np.float64), goal.astype(np.float64)
    held = np.zeros(len(f), bool)
    held[_EACH - 1 :: _EACH] = True
    total = float(np.square(g[held]).sum())
    if total == 0.0 or not f.any():
        return Fit(Ridge(np.zeros((len(f), 1)), np.ones(1), np.zeros((1, f.shape[1])), g, 1.0), "ridge", 0.0)
    errors, factor = _ridge_errors(f, g, held)
    best = int(np.argmin(errors))
    if max(f.shape[1], g.shape[1]) <= _MOST:
        turned = _orthogonal(f[~held], g[~held])
        error = float(np.square(g[held] - f[held] @ turned.values.T).sum())
        if error <= _NO_WORSE * errors[best]:
            return Fit(_orthogonal(f, g), "procrustes", 1.0 - error / total)
    u, s, vt = np.linalg.svd(f, full_matrices=False)
    ridge = _RIDGES[best] * factor * len(f)
    return Fit(Ridge(u, s, vt, goal, ridge), "ridge", 1.0 - errors[best] / total)


def _ridge_errors(f: Array, g: Array, held: NDArray[np.bool_]) -> tuple[list[float], float]:
    """Return the held-out error of every ridge, and the unit that ridges are given in, per place."""
    u, s, vt = np.linalg.svd(f[~held], full_matrices=False)
    unit = float(np.mean(np.square(f[~held])))
    inner = u.T @ g[~held]
    seen = f[held] @ vt.T
    errors = []
    for part in _RIDGES:
        shrunk = s / (np.square(s) + part * unit * len(u))
        errors.append(float(np.square(g[held] - (seen * shrunk) @ inner).sum()))
    return errors, unit


def _orthogonal(f: Array, g: Array) -> Orthogonal:
    """Return the best orthogonal map; between spaces of unlike size its best multiple."""
    u, s, vt = np.linalg.svd(g.T @ f, full_matrices=False)
    turn = u @ vt
    size = float(np.square(f @ vt.T).sum()) if f.shape[1] > g.shape[1] else float(np.square(f).sum())
    scale = float(s.sum()) / size if size > 0.0 else 0.0
    return Orthogonal(scale * turn)

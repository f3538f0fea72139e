"""Linear maps that bring what one model computes at some places to what another computes there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from loragraft.calibration.ridge import NOISE, Ridge, RidgePath

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Rows = NDArray[np.floating]
    Mask = NDArray[np.bool_]

#: Beyond so many coordinates an orthogonal map is not looked for: it costs the cube of them.
_MOST: Final = 2048
#: Every so many places one is held out, to choose by.
_EACH: Final = 5
#: An orthogonal map is taken although its held-out error is so many times that of the best ridge.
_NO_WORSE: Final = 1.02


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


@dataclass(frozen=True, slots=True)
class Anchored:
    """M = argmin ‖F Mᵀ − G‖² + λ‖M − M₀‖² with an orthogonal map M₀: M₀ and a ridge for the rest.

    Attributes:
        anchor: M₀.
        rest: The map from F to G − F M₀ᵀ.
    """

    anchor: Orthogonal
    rest: Ridge

    def forward(self, columns: Array) -> Array:
        """Return M columns."""
        return self.anchor.forward(columns) + self.rest.forward(columns)

    def backward(self, columns: Array) -> Array:
        """Return Mᵀ columns."""
        return self.anchor.backward(columns) + self.rest.backward(columns)


class Fit(NamedTuple):
    """A map and how well it predicts what it was not made from.

    Attributes:
        map: ``forward`` gives M columns, ``backward`` Mᵀ columns.
        name: ``ridge``, ``procrustes``, or ``procrustes and ridge``.
        explained: Share of the squared norm of held-out rows, about the mean of the others, that
            it predicts (R²): 1 is all, 0 or less is nothing.
    """

    map: Ridge | Orthogonal | Anchored
    name: str
    explained: float


def every_fifth(places: int) -> Mask:
    """Return which places are held out where nothing better is known."""
    held = np.zeros(places, bool)
    held[_EACH - 1 :: _EACH] = True
    return held


def fit(origin: Rows, goal: Rows, held: Mask | None = None) -> Fit:
    """Find the map M of rows of one model to those of another, G ≈ F Mᵀ.

    Ridge and kind of map are chosen by the error at the places held out, then the map is made from
    all places. A ridge pulls the map towards zero, or towards the orthogonal map of the places that
    are not held out. An orthogonal map alone is preferred where it is no worse.

    Args:
        origin: F, (places, m_from).
        goal: G, (places, m_to).
        held: Places held out, some but not all; None for every fifth.
    """
    f, g = origin.astype(np.float64), goal.astype(np.float64)
    held = every_fifth(len(f)) if held is None else held
    path = RidgePath(f[~held], f[held])
    part, error = path.best(g[~held], g[held])
    if max(f.shape[1], g.shape[1]) <= _MOST:
        anchor = _orthogonal(f[~held], g[~held])
        rest = g - f @ anchor.values.T
        alone = float(np.square(rest[held]).sum())
        size, other = path.best(rest[~held], rest[held])
        rounding = NOISE**2 * float(np.square(g[held]).sum())
        if alone <= max(_NO_WORSE * min(error, other), rounding):
            return Fit(_orthogonal(f, g), "procrustes", explained(alone, g, held))
        if other < error:
            found = Anchored(anchor, Ridge.of(f, rest, size))
            return Fit(found, "procrustes and ridge", explained(other, g, held))
    return Fit(Ridge.of(f, g, part), "ridge", explained(error, g, held))


def explained(error: float, goal: Array, held: Mask) -> float:
    """Return the share of the held-out rows' squared norm about the mean that is predicted.

    Args:
        error: Squared error at the places held out.
        goal: All rows.
        held: Which were held out.
    """
    total = float(np.square(goal[held] - goal[~held].mean(axis=0)).sum())
    return 1.0 - error / total if total > 0.0 else 0.0


def _orthogonal(f: Array, g: Array) -> Orthogonal:
    """Return the orthogonal map, between spaces of unlike size a semi-orthogonal one, times c.

    Directions that the rows have nothing in are left out: what becomes of them is not known.
    """
    u, s, vt = np.linalg.svd(g.T @ f, full_matrices=False)
    known = s > NOISE**2 * s[:1]
    turn = u[:, known] @ vt[known]
    size = float(np.square(f @ vt[known].T).sum())
    return Orthogonal((float(s[known].sum()) / size if size > 0.0 else 0.0) * turn)

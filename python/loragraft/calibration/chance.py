"""What the tokens alone explain: any two models that read the same texts have them in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from loragraft.calibration.regression import explained
from loragraft.calibration.ridge import RidgePath, sketched

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Rows = NDArray[np.floating]
    Mask = NDArray[np.bool_]


class TokenChance:
    """Maps from a model that knows nothing but the token: a random vector for each of them."""

    def __init__(self, tokens: Sequence[int], held: Mask, seed: int) -> None:
        """Prepare.

        Args:
            tokens: Number of the token at every place.
            held: Which places are held out.
            seed: Of the random vectors.
        """
        known, self._numbers = np.unique(np.asarray(tokens), return_inverse=True)
        self._known = len(known)
        self._held = held
        self._seed = seed
        self._paths: dict[int, RidgePath] = {}

    def explained(self, width: int, goal: Rows) -> float:
        """Return the held-out share that the best ridge from random vectors explains.

        Args:
            width: Size of the vectors: that of the rows that they stand in for.
            goal: G, (places, m_to).
        """
        held = self._held
        if width not in self._paths:
            vectors = np.random.default_rng(self._seed).standard_normal((self._known, width))
            # With a constant beside them: what a mean explains needs no token.
            constant = np.full((len(held), 1), width**0.5)
            rows = np.hstack([vectors[self._numbers], constant])
            self._paths[width] = RidgePath(rows[~held], rows[held])
        g = sketched(goal.astype(np.float64))
        _, error = self._paths[width].best(g[~held], g[held])
        return explained(error, g, held)

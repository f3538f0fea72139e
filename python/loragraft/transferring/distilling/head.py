"""The unembedding of a model, over the tokens that matter at each place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from loragraft.transferring.distilling.wanted import Wanted

    Array = NDArray[np.float32]

#: Places at once: their rows of the unembedding are gathered.
_PLACES: Final = 128


class Head:
    """KL divergence of a model's distributions from the wanted ones, with its derivatives.

    All over the tokens that `Wanted` keeps at each place.
    """

    def __init__(self, unembedding: Array, wanted: Wanted, cap: float | None = None) -> None:
        """Look at some places.

        Args:
            unembedding: U, (tokens, d).
            wanted: What is wanted there.
            cap: Logits l become cap · tanh(l / cap), as in Gemma 2; None where they do not.
        """
        self._unembedding = unembedding
        self._wanted = wanted
        self._cap = cap

    def divergence(self, states: Array) -> tuple[Array, Array]:
        """Return KL(q ‖ p) at every place, in nats, and its gradient.

        Args:
            states: Last hidden states z after the last norm, (places, d).

        Returns:
            (places,) and (places, d).
        """
        found = np.empty(len(states), np.float32)
        gradient = np.empty_like(states)
        for here in self._slabs(len(states)):
            rows, slope, log_p = self._log_p(states[here], here)
            log_q = self._wanted.log_q[here]
            q = np.exp(log_q)
            found[here] = np.einsum("pk,pk->p", q, log_q - log_p)
            residual = (np.exp(log_p) - q) * slope
            gradient[here] = np.matmul(residual[:, None, :], rows)[:, 0]
        return found, gradient

    def fisher(self, states: Array) -> Array:
        """Return the mean of Uᵀ(diag p − ppᵀ)U over the places, (d, d)."""
        total = np.zeros((states.shape[1],) * 2, np.float32)
        for here in self._slabs(len(states)):
            rows, slope, log_p = self._log_p(states[here], here)
            p = np.exp(log_p)
            mean = np.matmul(p[:, None, :], rows)
            spread = ((rows - mean) * (np.sqrt(p) * slope)[:, :, None]).reshape(-1, rows.shape[-1])
            total += spread.T @ spread
        return total / np.float32(len(states))

    def _log_p(self, states: Array, here: slice) -> tuple[Array, Array, Array]:
        """Return rows of U, the slope of the cap, and log-probabilities."""
        rows = self._unembedding[self._wanted.tokens[here]]
        logits = np.matmul(rows, states[:, :, None])[:, :, 0]
        slope = np.ones_like(logits)
        if self._cap is not None:
            bent = np.tanh(logits / self._cap)
            logits, slope = self._cap * bent, 1.0 - np.square(bent)
        logits -= logits.max(axis=1, keepdims=True)
        return rows, slope, logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    @staticmethod
    def _slabs(count: int) -> Iterator[slice]:
        return (slice(start, start + _PLACES) for start in range(0, count, _PLACES))

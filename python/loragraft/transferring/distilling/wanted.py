"""The distributions of next tokens that the target ought to have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loragraft.transferring.distilling.vocabulary import FirstTokens

    Array = NDArray[np.float32]

#: Tokens kept at a place: what is left has next to no probability, before or after.
KEPT: Final = 96
#: Nothing is made more or less probable than by this many nats at once.
_MOST: Final = 30.0
_LEAST: Final = 1e-12


class Wanted(NamedTuple):
    """What is wanted at some places, over the tokens that matter there.

    Attributes:
        tokens: Numbers of the target's tokens, (places, `KEPT`).
        log_q: Their wanted log-probabilities, which sum to one, (places, `KEPT`).
    """

    tokens: NDArray[np.intp]
    log_q: Array


class Shift:
    """What an adapter does to the source, said in the target's tokens.

    q ∝ p_T · p_A / √(p_S · m_T), with p_S and p_A the source without and with its adapter at the
    first token of the source that a token of the target begins with, and m_T what the target gives
    to all tokens that begin so. That is the geometric mean of two: the target with the adapter's
    shift, p_T · p_A / p_S (Liu et al., proxy-tuning, arXiv 2401.08565), which keeps what the target
    knows better, and the tuned source itself, p_T · p_A / m_T, where the target only divides
    probability among tokens that begin alike, which no error of p_S can blow up. Tokens that the
    source cannot write keep their probability.
    """

    def __init__(self, vocabulary: FirstTokens) -> None:
        """Sort the target's tokens by how the source begins them.

        Args:
            vocabulary: How it begins them.
        """
        self._known = np.flatnonzero(vocabulary.known)
        self._first = vocabulary.first[self._known]
        order = np.argsort(self._first, kind="stable")
        self._groups, self._starts = np.unique(self._first[order], return_index=True)
        self._order = self._known[order]

    def wanted(self, target: Array, tuned: Array, source: Array) -> Wanted:
        """Return what is wanted at some places.

        Args:
            target: Log-probabilities of the target, (places, target's tokens).
            tuned: Of the source with its adapter, (places, source's tokens).
            source: Of the source alone.
        """
        mass = np.zeros_like(tuned)
        mass[:, self._groups] = np.add.reduceat(
            np.exp(target[:, self._order]), self._starts, axis=1
        )
        shift = tuned - 0.5 * (source + np.log(mass + _LEAST))
        log_q = target.copy()
        log_q[:, self._known] += np.clip(shift, -_MOST, _MOST)[:, self._first]
        log_q -= _log_sum(log_q)
        kept = min(KEPT, log_q.shape[1])
        scores = np.maximum(log_q, target)
        tokens = np.argpartition(scores, -kept, axis=1)[:, -kept:]
        # In order of their numbers: a partition's own order is no one's promise.
        tokens.sort(axis=1)
        found = np.take_along_axis(log_q, tokens, axis=1)
        return Wanted(tokens, found - _log_sum(found))


def joined(parts: list[Wanted]) -> Wanted:
    """Return what is wanted at the places of all parts."""
    return Wanted(*(np.concatenate(one) for one in zip(*parts, strict=True)))


def _log_sum(values: Array) -> Array:
    most = values.max(axis=1, keepdims=True)
    return np.asarray(most + np.log(np.exp(values - most).sum(axis=1, keepdims=True)))

"""The distributions of next tokens that the target ought to have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from loragraft.transferring.distilling.vocabulary import NOBODY

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loragraft.transferring.distilling.vocabulary import Beginnings

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
        covered: Probability that the source with its adapter gives to what both sides know, 0 to 1,
            (places,): of what else it says nothing reaches the target.
    """

    tokens: NDArray[np.intp]
    log_q: Array
    covered: Array


class Shift:
    """What an adapter does to the source, said in the target's tokens.

    q ∝ p_T · P_A / √(P_S · P_T), with P the probability of all tokens of a model that begin with
    the same shared token: of the source without its adapter, with it, and of the target. That is
    the geometric mean of two: the target with the adapter's shift, p_T · P_A / P_S (Liu et al.,
    proxy-tuning, arXiv 2401.08565), which keeps what the target knows better, and the tuned source
    itself, p_T · P_A / P_T, where the target only divides probability among tokens that begin
    alike, which no error of P_S can blow up. Tokens without a beginning that both know keep their
    probability.
    """

    def __init__(self, beginnings: Beginnings) -> None:
        """Sort the tokens of both sides by how they begin.

        Args:
            beginnings: How they begin.
        """
        self._source = _Groups(beginnings.source, beginnings.shared)
        self._target = _Groups(beginnings.target, beginnings.shared)
        self._known = np.flatnonzero(beginnings.target != NOBODY)
        self._of = beginnings.target[self._known]

    def wanted(self, target: Array, tuned: Array, source: Array) -> Wanted:
        """Return what is wanted at some places.

        Args:
            target: Log-probabilities of the target, (places, target's tokens).
            tuned: Of the source with its adapter, (places, source's tokens).
            source: Of the source alone.
        """
        with_it, without = self._source.log_sums(tuned), self._source.log_sums(source)
        shift = with_it - 0.5 * (without + self._target.log_sums(target))
        log_q = target.copy()
        log_q[:, self._known] += np.clip(shift, -_MOST, _MOST)[:, self._of]
        log_q -= _log_sum(log_q)
        kept = min(KEPT, log_q.shape[1])
        scores = np.maximum(log_q, target)
        tokens = np.argpartition(scores, -kept, axis=1)[:, -kept:]
        # In order of their numbers: a partition's own order is no one's promise.
        tokens.sort(axis=1)
        found = np.take_along_axis(log_q, tokens, axis=1)
        return Wanted(tokens, found - _log_sum(found), np.exp(with_it).sum(axis=1))


class _Groups:
    """The tokens of a model by the shared token that they begin with."""

    def __init__(self, beginnings: NDArray[np.intp], count: int) -> None:
        known = np.flatnonzero(beginnings != NOBODY)
        self._order = known[np.argsort(beginnings[known], kind="stable")]
        self._groups, self._starts = np.unique(beginnings[self._order], return_index=True)
        self._count = count

    def log_sums(self, log_p: Array) -> Array:
        """Return log-probabilities of the groups, (places, shared tokens)."""
        sums = np.zeros((len(log_p), self._count), np.float32)
        each = np.exp(log_p[:, self._order])
        sums[:, self._groups] = np.add.reduceat(each, self._starts, axis=1)
        return np.asarray(np.log(sums + np.float32(_LEAST)))


def joined(parts: list[Wanted]) -> Wanted:
    """Return what is wanted at the places of all parts."""
    return Wanted(*(np.concatenate(one) for one in zip(*parts, strict=True)))


def _log_sum(values: Array) -> Array:
    most = values.max(axis=1, keepdims=True)
    return np.asarray(most + np.log(np.exp(values - most).sum(axis=1, keepdims=True)))

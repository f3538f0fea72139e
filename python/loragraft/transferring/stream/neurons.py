"""Neurons of two gated MLPs: who is who."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from loragraft.transferring.stream.assignment import assign, greedy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from loragraft.transferring.maps import Columns

    Array = NDArray[np.float64]

#: Neurons up to which the best assignment is found; above it the best pair goes first.
_EXACT: Final = 512


@dataclass(frozen=True, slots=True)
class NeuronMap:
    """A permutation where both sides have as many neurons; else those without a partner are zero.

    Attributes:
        targets: Neurons of the target, (n,).
        sources: Their partners in the source, (n,).
        size: Neurons of the target in all.
    """

    targets: NDArray[np.intp]
    sources: NDArray[np.intp]
    size: int

    def __call__(self, columns: Columns) -> Columns:
        """Move rows to where they belong: (m_s, k) to (m_t, k)."""
        out = np.zeros((self.size, columns.shape[1]))
        out[self.targets] = columns[self.sources]
        return out


def match_neurons(source: Iterable[Array], target: Iterable[Array]) -> NeuronMap:
    """Match neurons by the summed cosines of their gate rows, up rows and down columns.

    Args:
        source: Three matrices (m_s, d) with a row for each neuron, in one residual stream; one is
            held at a time.
        target: The same of the target, (m_t, d).
    """
    own, other = _features(source), _features(target)
    swapped = len(own) < len(other)
    few, many = (own, other) if swapped else (other, own)
    if len(many) <= _EXACT:
        partners = assign(few @ many.T)
    else:
        partners = greedy(lambda a, b: few[a:b] @ many.T, len(few), len(many))
    rows = np.arange(len(few))
    if swapped:
        return NeuronMap(partners, rows, len(other))
    return NeuronMap(rows, partners, len(other))


def told(source: int, target: int) -> str:
    """Return what a reader must know of a match; empty where there is nothing."""
    if source == target:
        return ""
    left = f"{source - target} of the source's are dropped"
    if source < target:
        left = f"{target - source} of the target's get nothing"
    return f"{source} neurons onto {target}: {left}"


def _features(parts: Iterable[Array]) -> NDArray[np.float32]:
    """Return the rows of all parts side by side, each of norm one."""
    rows = []
    for part in parts:
        norms = np.linalg.norm(part, axis=1, keepdims=True)
        unit = np.divide(part, norms, out=np.zeros_like(part), where=norms > 0.0)
        rows.append(unit.astype(np.float32))
    return np.concatenate(rows, axis=1)

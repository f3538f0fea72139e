"""Neurons of two gated MLPs: who is who."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from loragraft import native
from loragraft.transferring.stream.assignment import assign, greedy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from loragraft.transferring.maps import Columns

    Array = NDArray[np.float64]
    Rows = NDArray[np.float32]
    #: Rows of norm one, known by what a map (d, k) makes of them, (m, k).
    Lines = Callable[[Rows], Rows]

#: Neurons up to which the best assignment is found; above it the best pair goes first.
_EXACT: Final = 512
_SKETCH: Final = 512


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


def match_neurons(
    source: Iterable[Lines], target: Iterable[Lines], maps: NeuronSpaces, threads: int = 1
) -> NeuronMap:
    """Match neurons by the summed cosines of their gate rows, up rows and down columns.

    Args:
        source: Three matrices with a row of d_s for each neuron.
        target: The same of the target, d_t.
        maps: Where they are compared.
        threads: To compare with.
    """
    own, other = _features(source, maps.source), _features(target, maps.target)
    swapped = len(own) < len(other)
    few, many = (own, other) if swapped else (other, own)
    if len(many) <= _EXACT:
        partners = assign(few @ many.T)
    else:

        def best(
            rows: NDArray[np.intp], columns: NDArray[np.intp], count: int
        ) -> tuple[Rows, NDArray[np.int64]]:
            return native.best_products(few[rows], many[columns], count, threads)

        partners = greedy(best, len(few), len(many))
    rows = np.arange(len(few))
    if swapped:
        return NeuronMap(partners, rows, len(other))
    return NeuronMap(rows, partners, len(other))


class NeuronSpaces(NamedTuple):
    """Maps of both residual streams into one space, for each of the three matrices.

    Attributes:
        source: Three matrices (d_s, k).
        target: Three matrices (d_t, k).
    """

    source: Sequence[Rows]
    target: Sequence[Rows]


def neuron_spaces(rotation: Array, neurons: int) -> NeuronSpaces:
    """Return where neurons are compared: side by side, or in a random sketch where there are many.

    A sketch keeps the mean of three cosines to ± 1/√512 (Johnson and Lindenstrauss), which is
    enough to tell partners from strangers, and costs a small part of comparing all coordinates.

    Args:
        rotation: R, (d_t, d_s).
        neurons: How many the larger side has.
    """
    width = rotation.shape[1]
    if neurons <= _EXACT:
        blocks = np.eye(3 * width, dtype=np.float32).reshape(3, width, 3 * width)
    else:
        drawn = np.random.default_rng(0).standard_normal((3, width, _SKETCH))
        blocks = (drawn / _SKETCH**0.5).astype(np.float32)
    turn = rotation.astype(np.float32)
    return NeuronSpaces(tuple(blocks), tuple(turn @ block for block in blocks))


def told(source: int, target: int) -> str:
    """Return what a reader must know of a match; empty where there is nothing."""
    if source == target:
        return ""
    left = f"{source - target} of the source's are dropped"
    if source < target:
        left = f"{target - source} of the target's get nothing"
    return f"{source} neurons onto {target}: {left}"


def _features(parts: Iterable[Lines], maps: Sequence[Rows]) -> Rows:
    """Return the sum of the rows of all parts, each of norm one and mapped, (m, k)."""
    mapped = [part(space) for part, space in zip(parts, maps, strict=True)]
    return np.asarray(sum(mapped[1:], start=mapped[0]))

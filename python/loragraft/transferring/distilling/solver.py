"""The low-rank update of one projection that brings a model closest to what is wanted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from loragraft.transferring.distilling.minimum import minimize
from loragraft.transferring.update import Update

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loragraft.transferring.distilling.head import Head
    from loragraft.transferring.distilling.tail import Tail

    Array = NDArray[np.float32]
    Mask = NDArray[np.bool_]

#: Added to the second moments of the inputs, as a part of their mean.
_INPUT_RIDGE: Final = 1.0
#: Added to the metric of the outputs, as a part of its mean.
_OUTPUT_RIDGE: Final = 0.1
#: λ of λ/2 ‖V‖², where the divergence's own curvature is near one.
_DECAY: Final = 0.03
_STEPS: Final = 30
#: Steps of the second round, in which the inputs of low rank are fixed.
_REFITS: Final = 15


class Solved(NamedTuple):
    """An update and what it brings, in nats at places held out.

    Attributes:
        update: B (out, r), A (r, in).
        before: Mean KL(q ‖ p) without it.
        after: With it.
        fitted: With it, at the places it was made from.
    """

    update: Update
    before: float
    after: float
    fitted: float


class _Whitening(NamedTuple):
    """Coordinates in which the divergence curves alike in all directions.

    Attributes:
        features: Whitened inputs, (places, k).
        inputs: Gives A of a V: V · inputs, (k, in).
        outputs: The inverse root of the outputs' metric, symmetric, (out, out).
    """

    features: Array
    inputs: Array
    outputs: Array


@dataclass(slots=True)
class _Objective:
    """Mean KL(q ‖ p) + λ/2 ‖V‖² of W = outputs · V · inputs; keeps what is best where held out."""

    tail: Tail
    head: Head
    features: Array
    outputs: Array
    held: Mask
    best: Array = field(init=False)
    after: float = field(default=float("inf"), init=False)
    fitted: float = field(default=float("inf"), init=False)

    def __call__(self, V: Array) -> tuple[float, Array]:
        change = np.asarray((self.features @ V.T) @ self.outputs, np.float32)
        found, gradient = self.head.divergence(self.tail.states(change))
        own = ~self.held
        fitted, after = (float(found[mask].mean()) for mask in (own, self.held))
        if after < self.after:
            self.best, self.after, self.fitted = V, after, fitted
        by_output = self.tail.back(change, gradient)[own] @ self.outputs
        slope = by_output.T @ self.features[own] / np.float32(own.sum())
        value = fitted + 0.5 * _DECAY * float(np.vdot(V, V))
        return value, slope + np.float32(_DECAY) * V


def solve(inputs: Array, tail: Tail, head: Head, held: Mask, rank: int) -> Solved:
    """Find ΔW = B A of one projection so that y + ΔW x leads to what is wanted.

    KL(q ‖ softmax(U z)) is convex in z. In the metric of its mean curvature, that of the outputs
    times that of the inputs (Martens and Grosse, K-FAC, arXiv 1503.05671), few steps lead to the
    minimum; the point best at held-out places is kept, cut to its leading singular triplets in
    that metric, and B is found once more for the A that is left.

    Args:
        inputs: x, (places, in).
        tail: From y to the head.
        head: What is wanted.
        held: Places to choose by.
        rank: r.
    """
    space = _whitening(inputs, tail, head, held)
    full = _Objective(tail, head, space.features, space.outputs, held)
    start = np.zeros((space.outputs.shape[0], space.features.shape[1]), np.float32)
    before = float(head.divergence(tail.states(np.zeros_like(tail.outputs)))[0][held].mean())
    minimize(full, start, _STEPS)
    u, s, vt = np.linalg.svd(full.best.astype(np.float64), full_matrices=False)
    rank = min(rank, s.size)
    narrow = (space.features @ vt[:rank].T).astype(np.float32)
    low = _Objective(tail, head, narrow, space.outputs, held)
    minimize(low, (u[:, :rank] * s[:rank]).astype(np.float32), _REFITS)
    update = Update(
        space.outputs.astype(np.float64) @ low.best.astype(np.float64),
        vt[:rank] @ space.inputs.astype(np.float64),
    )
    return Solved(update, before, low.after, low.fitted)


def _whitening(inputs: Array, tail: Tail, head: Head, held: Mask) -> _Whitening:
    """Return coordinates: of the inputs within what they span, of the outputs by the Fisher."""
    own = inputs[~held].astype(np.float64)
    scale, basis = _leading(own)
    unit = float(np.square(own).sum()) / (own.shape[0] * own.shape[1])
    roots = np.sqrt(np.square(scale) / len(own) + _INPUT_RIDGE * unit)
    white = (basis / roots[:, None]).astype(np.float32)
    states = tail.states(np.zeros_like(tail.outputs))
    slope = tail.slope().astype(np.float64)
    metric = head.fisher(states).astype(np.float64) * slope[:, None] * slope
    metric += _OUTPUT_RIDGE * float(np.trace(metric)) / len(metric) * np.eye(len(metric))
    values, vectors = np.linalg.eigh(metric)
    outputs = (vectors / np.sqrt(values)) @ vectors.T
    return _Whitening(inputs @ white.T, white, outputs.astype(np.float32))


def _leading(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return singular values and right singular vectors, through the Gram matrix of the rows."""
    small = rows.shape[0] <= rows.shape[1]
    values, vectors = np.linalg.eigh(rows @ rows.T if small else rows.T @ rows)
    kept = values > 1e-10 * max(float(values[-1]), 1e-300)
    scale = np.sqrt(values[kept])
    if not small:
        return scale, vectors[:, kept].T
    return scale, (rows.T @ (vectors[:, kept] / scale)).T

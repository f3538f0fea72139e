"""Limited-memory BFGS, for smooth functions of many numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[np.float32]
    #: Gives the value and the gradient.
    Function = Callable[[Array], tuple[float, Array]]

#: Steps remembered.
_MEMORY: Final = 8
#: Part of the decrease that the slope promises which a step must bring (Armijo).
_ENOUGH: Final = 1e-4
_HALVINGS: Final = 12


def minimize(function: Function, start: Array, steps: int) -> None:
    """Go downhill; whoever wants a point keeps it when the function is called.

    Liu and Nocedal, Mathematical Programming 45, 1989, with halving of steps.

    Args:
        function: What to make small.
        start: Where to begin.
        steps: How many at most.
    """
    at = start
    value, gradient = function(at)
    moves: list[tuple[Array, Array, float]] = []
    for _ in range(steps):
        direction = -_two_loops(gradient, moves)
        slope = _dot(gradient, direction)
        if slope >= 0.0:
            return
        length = 1.0
        for _ in range(_HALVINGS):
            there = at + np.float32(length) * direction
            new_value, new_gradient = function(there)
            if np.isfinite(new_value) and new_value <= value + _ENOUGH * length * slope:
                break
            length *= 0.5
        else:
            return
        move, change = there - at, new_gradient - gradient
        curvature = _dot(move, change)
        if curvature > 0.0:
            moves = [*moves[1 - _MEMORY :], (move, change, 1.0 / curvature)]
        at, value, gradient = there, new_value, new_gradient


def _two_loops(gradient: Array, moves: list[tuple[Array, Array, float]]) -> Array:
    """Return the inverse Hessian, as the last moves tell it, times the gradient."""
    found = gradient.copy()
    weights = []
    for move, change, inverse in reversed(moves):
        weight = inverse * _dot(move, found)
        weights.append(weight)
        found -= np.float32(weight) * change
    if moves:
        move, change, inverse = moves[-1]
        found *= np.float32(1.0 / (inverse * _dot(change, change)))
    for (move, change, inverse), weight in zip(moves, reversed(weights), strict=True):
        found += np.float32(weight - inverse * _dot(change, found)) * move
    return found


def _dot(first: Array, second: Array) -> float:
    return float(np.vdot(first, second))

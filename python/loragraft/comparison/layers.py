"""Rules that pair the layers of two models by their numbers alone."""

from __future__ import annotations


def identity(source: int, target: int) -> dict[int, int]:
    """Pair layers of the same number; the deeper model's last ones have no partner."""
    return {layer: layer for layer in range(min(source, target))}


def proportional(source: int, target: int) -> dict[int, int]:
    """Pair layers at the same relative depth: i_t -> round(i_t (L_s − 1) / (L_t − 1)).

    Args:
        source: L_s, number of layers of the source.
        target: L_t, of the target.
    """
    if target == 1:
        return {0: 0}
    # Halves go up; Python's round would send them to the even neighbour.
    span = target - 1
    return {i: (2 * i * (source - 1) + span) // (2 * span) for i in range(target)}

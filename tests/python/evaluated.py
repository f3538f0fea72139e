"""Results of made candidates, whose figures are known."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from loragraft.evaluation.candidate import BASE, Candidate, Kind
from loragraft.evaluation.items import Items

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

ANSWERS = 4


def made(
    candidate: str,
    chosen: Sequence[int] | NDArray[np.intp],
    *,
    task: str = "arc_challenge",
    lead: float = 1.0,
) -> Items:
    """Questions whose right answer is 0 and whose chosen one is ahead of the others by `lead`."""
    count = len(chosen)
    scores = np.full((count, ANSWERS), -2.0)
    scores[np.arange(count), chosen] += lead
    ids = tuple(f"q{number}" for number in range(count))
    lengths = np.full((count, ANSWERS), 10.0)
    return Items(task, candidate, ids, np.zeros(count, np.intp), scores, lengths)


def right(count: int, number: int, *, wrong: int = 1) -> NDArray[np.intp]:
    """Choices of which the first `number` are right."""
    return np.where(np.arange(count) < number, 0, wrong)


def named(*names: str) -> tuple[Candidate, ...]:
    kinds = [Kind.BASE if name == BASE else Kind.ADAPTER for name in names]
    return tuple(map(Candidate, names, kinds, map(Path, names)))


def noisy(count: int, seed: int, **shifts: float) -> dict[str, Items]:
    """The base, and candidates whose right answers are likelier than its by so many nats."""
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, ANSWERS, count)
    scores = rng.normal(-20.0, 4.0, (count, ANSWERS))
    lengths = rng.integers(5, 60, (count, ANSWERS)).astype(float)
    ids = tuple(f"q{number}" for number in range(count))
    found = {BASE: Items("arc_easy", BASE, ids, gold, scores, lengths)}
    for name, shift in shifts.items():
        own = scores + rng.normal(0.0, 0.6, scores.shape)
        own[np.arange(count), gold] += shift
        found[name] = Items("arc_easy", name, ids, gold, own, lengths)
    return found

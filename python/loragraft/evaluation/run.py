"""What an evaluation found: the results of every candidate on every question of every task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from loragraft.evaluation.items import Items

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from loragraft.evaluation.candidate import Candidate
    from loragraft.evaluation.harness import Prompts

SCHEMA = "loragraft.evaluation-run/1"


@dataclass(frozen=True, slots=True)
class EvaluationRun:
    """Results of an evaluation.

    Attributes:
        candidates: Those that were compared, the model alone first.
        items: By task and candidate, both by name.
        oracle: Name of the candidate that has all there is to gain; None for none.
        seed: Of the resampling that intervals come from.
        notes: What readers must know: samples, what was computed with, adapters without effect.
        seconds: That it took.
    """

    candidates: tuple[Candidate, ...]
    items: Mapping[str, Mapping[str, Items]]
    oracle: str | None
    seed: int
    notes: tuple[str, ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the results as plain data, without those of single questions."""
        return {
            "schema": SCHEMA,
            "command": "evaluate",
            "candidates": [
                {"name": one.name, "kind": str(one.kind), "path": str(one.path)}
                for one in self.candidates
            ],
            "oracle": self.oracle,
            "seed": self.seed,
            "tasks": [
                {"name": task, "candidates": [_figures(items) for items in found.values()]}
                for task, found in self.items.items()
            ],
            "notes": list(self.notes),
            "seconds": self.seconds,
        }


def _figures(items: Items) -> dict[str, Any]:
    return {
        "name": items.candidate,
        "questions": len(items.ids),
        "acc": float(items.acc.mean()),
        "acc_norm": float(items.acc_norm.mean()),
        "margin": float(items.margin.mean()),
    }


def make_items(prompts: Prompts, candidate: str, found: Mapping[int, Sequence[float]]) -> Items:
    """Put the results of all questions together.

    Args:
        prompts: What was asked.
        candidate: Name of who answered.
        found: Log-likelihoods of the answers by number of the question.
    """
    rows = [found[number] for number in range(len(prompts.ids))]
    return Items(
        task=prompts.task,
        candidate=candidate,
        ids=prompts.ids,
        gold=np.array(prompts.gold, np.intp),
        log_likelihoods=_matrix(rows),
        lengths=_matrix(prompts.lengths),
    )


def _matrix(rows: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Return rows of different lengths as a matrix, short ones ending with NaN."""
    found = np.full((len(rows), max(map(len, rows))), np.nan)
    for place, row in enumerate(rows):
        found[place, : len(row)] = row
    return found

"""What the adapters of the test bed are trained for: questions with one right answer each."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

_SETS: Final = ("ARC-Challenge", "ARC-Easy")


class Question(NamedTuple):
    """A question as it is asked, with its possible answers.

    Attributes:
        prompt: The text before the answer.
        answers: All that may follow, each with its leading space.
        gold: Number of the right one.
    """

    prompt: str
    answers: tuple[str, ...]
    gold: int

    @property
    def answer(self) -> str:
        """The right one."""
        return self.answers[self.gold]


def questions(data: Path, split: str, sets: tuple[str, ...] = _SETS) -> list[Question]:
    """Read ARC.

    Args:
        data: Directory with ``ARC-Challenge`` and ``ARC-Easy``, JSON lines.
        split: ``train``, ``validation`` or ``test``.
        sets: Which of the two.
    """
    found = []
    for name in sets:
        lines = (data / name / f"{split}.jsonl").read_text("utf-8").splitlines()
        found += [_question(json.loads(line)) for line in lines]
    return found


def _question(item: dict[str, object]) -> Question:
    # The prompt of lm-evaluation-harness, arc_easy.yaml.
    choices = item["choices"]
    assert isinstance(choices, dict)
    return Question(
        f"Question: {item['question']}\nAnswer:",
        tuple(f" {text}" for text in choices["text"]),
        choices["label"].index(item["answerKey"]),
    )

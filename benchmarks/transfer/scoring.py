"""What a model with each of several adapters makes of held-out questions, answer by answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from peft import PeftModel
from texts import answer_log_probabilities, answer_loss, batch_of
from transformers import AutoModelForCausalLM, AutoTokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tasks import Question

#: Questions whose padded batch is run at once.
_SIZE = 24


class Scores(NamedTuple):
    """What was measured, a number for each question.

    Attributes:
        nats: Negative log-likelihood of the right answer and the end after it.
        right: Whether the right answer is the likeliest of all, each without its end.
        chosen: Number of the likeliest.
        divergence: KL(model alone ‖ with the adapter) in nats a token, over right answers.
    """

    nats: np.ndarray
    right: np.ndarray
    chosen: np.ndarray
    divergence: np.ndarray


class Subject:
    """A model that is loaded once and takes one adapter after the other."""

    def __init__(self, directory: Path, adapters: dict[str, Path]) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(directory)
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        (first, path), *others = adapters.items()
        self.model = PeftModel.from_pretrained(model, path, adapter_name=first)
        for name, one in others:
            self.model.load_adapter(one, adapter_name=name)
        self.model.eval()
        self._scale = dict.fromkeys(adapters, 1.0)
        self._is_alone = False

    def use(self, name: str | None, scale: float = 1.0) -> None:
        """Switch to an adapter at a scale, or to the model alone."""
        if name is None:
            self.model.base_model.disable_adapter_layers()
            self._is_alone = True
            return
        self._is_alone = False
        self.model.base_model.enable_adapter_layers()
        self.model.set_adapter(name)
        for module in self.model.modules():
            scaling = getattr(module, "scaling", None)
            # Attention has a number of that name.
            if isinstance(scaling, dict) and name in scaling:
                scaling[name] *= scale / self._scale[name]
        self._scale[name] = scale

    @torch.no_grad()
    def nats(self, questions: Sequence[Question]) -> np.ndarray:
        """Return the negative log-likelihood of right answers with their ends."""
        pairs = [(one.prompt, one.answer) for one in questions]
        return self._losses(pairs, end=True)

    @torch.no_grad()
    def choices(self, questions: Sequence[Question]) -> np.ndarray:
        """Return the number of the likeliest answer, as lm-evaluation-harness chooses for acc."""
        pairs = [(one.prompt, answer) for one in questions for answer in one.answers]
        losses = self._losses(pairs, end=False)
        ends = np.cumsum([len(one.answers) for one in questions])[:-1]
        return np.array([int(np.argmin(part)) for part in np.split(losses, ends)])

    def scores(self, questions: Sequence[Question], judged: Sequence[Question]) -> Scores:
        """Return all figures: nats on some questions, choices on others."""
        chosen = self.choices(judged)
        gold = np.array([one.gold for one in judged])
        return Scores(self.nats(questions), chosen == gold, chosen, self.divergence(judged))

    @torch.no_grad()
    def divergence(self, questions: Sequence[Question]) -> np.ndarray:
        """Return how far next tokens of right answers are from the model's without an adapter."""
        found = np.zeros(len(questions))
        if self._is_alone:
            return found
        for start in range(0, len(questions), _SIZE):
            here = questions[start : start + _SIZE]
            pairs = [(one.prompt, one.answer) for one in here]
            batch = batch_of(self.tokenizer, pairs)
            own = answer_log_probabilities(self.model, batch)
            with self.model.disable_adapter():
                alone = answer_log_probabilities(self.model, batch)
            each = (alone.exp() * (alone - own)).sum(-1)
            rows = batch.wanted.nonzero()[:, 0]
            for row in range(len(here)):
                found[start + row] = float(each[rows == row].mean())
        return found

    def _losses(self, pairs: Sequence[tuple[str, str]], *, end: bool) -> np.ndarray:
        order = sorted(range(len(pairs)), key=lambda one: len("".join(pairs[one])))
        found = np.zeros(len(pairs))
        for start in range(0, len(order), _SIZE):
            here = order[start : start + _SIZE]
            batch = batch_of(self.tokenizer, [pairs[one] for one in here], end=end)
            found[here] = answer_loss(self.model, batch).numpy()
        return found

"""Log-likelihoods of answers: what a model of transformers makes of prompts and what follows.

A prompt is run once and its keys and values are kept for all answers to it, and logits are computed
where answers are: with questions of 40 tokens and answers of 5 that is a third of the work. Where a
model cannot be run so, or gives other numbers then, each answer is run with its prompt.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loragraft.evaluation.lines import Line

#: What a model must take to be run behind kept keys and values.
_NEEDED: Final = frozenset({"position_ids", "logits_to_keep"})
#: What models call these, from transformers 5.24 on and before.
_KEPT: Final = ("cache", "past_key_values")
#: Caches whose rows may be copied; others hold states that depend on padding.
_CACHES: Final = frozenset({"DynamicLayer", "DynamicSlidingWindowLayer"})
#: Difference of the two ways, relative to 1 + |log-likelihood|, that rounding explains.
_TOLERANCE: Final = {"float32": 1e-3}
_COARSE: Final = 0.05


class Scorer:
    """Computes log-likelihoods with one model, whatever adapter of it is switched on.

    Attributes:
        model: Of transformers, or PEFT's wrapper of it.
        shares: Whether the answers to a prompt share what was computed of it.
    """

    def __init__(self, model: Any, inner: Any) -> None:
        """Prepare.

        Args:
            model: What is called.
            inner: The model without PEFT's wrapper.
        """
        self.model = model
        self._takes = set(inspect.signature(type(inner).forward).parameters)
        self._tolerance = _TOLERANCE.get(str(inner.dtype).removeprefix("torch."), _COARSE)
        self._device = inner.device
        self._kept = next((name for name in _KEPT if name in self._takes), "")
        self.shares = self._may_share

    @property
    def _may_share(self) -> bool:
        return bool(self._kept) and self._takes >= _NEEDED

    def settle(self, line: Line) -> None:
        """Decide by a prompt and its answers whether sharing gives the same numbers."""
        self.shares = self._may_share
        if not self.shares:
            return
        try:
            found = self._shared([line])[0]
        except (AttributeError, TypeError, ValueError, NotImplementedError, _NoSharingError):
            self.shares = False
            return
        plain = self._plain([line])[0]
        self.shares = all(
            abs(one - other) <= self._tolerance * (1.0 + abs(other))
            for one, other in zip(found, plain, strict=True)
        )

    def log_likelihoods(self, lines: Sequence[Line]) -> list[list[float]]:
        """Return for every answer to each prompt the log-likelihood in nats, given the prompt."""
        return self._shared(lines) if self.shares else self._plain(lines)

    def _plain(self, lines: Sequence[Line]) -> list[list[float]]:
        """Run each answer with its prompt, padded on the right, where nothing looks back at it."""
        rows = [(line.prompt, answer) for line in lines for answer in line.answers]
        ids, _ = self._padded([(*prompt, *answer[:-1]) for prompt, answer in rows])
        start = min(len(prompt) for prompt, _ in rows) - 1
        keep = {}
        if "logits_to_keep" in self._takes:
            keep["logits_to_keep"] = ids.shape[1] - start
        logits = self.model(input_ids=ids, use_cache=False, **keep).logits
        skipped = ids.shape[1] - logits.shape[1]
        found = [
            self._sum(logits[row, len(prompt) - 1 - skipped :], answer)
            for row, (prompt, answer) in enumerate(rows)
        ]
        values = iter(found)
        return [[next(values) for _ in line.answers] for line in lines]

    def _shared(self, lines: Sequence[Line]) -> list[list[float]]:
        """Run the prompts, padded on the left, and then all answers behind what was kept."""
        import torch

        ids, mask = self._padded([line.prompt for line in lines], on_left=True)
        places = (mask.cumsum(-1) - 1).clamp(min=0)
        output = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=places,
            use_cache=True,
            logits_to_keep=1,
        )
        found = [
            [self._sum(output.logits[row, -1:], answer[:1]) for answer in line.answers]
            for row, line in enumerate(lines)
        ]
        rest = [
            (row, number, answer)
            for row, line in enumerate(lines)
            for number, answer in enumerate(line.answers)
            if len(answer) > 1
        ]
        if not rest:
            return found
        kept = _copied(getattr(output, self._kept), [row for row, _, _ in rest], self._device)
        del output
        ids, behind = self._padded([answer[:-1] for _, _, answer in rest])
        before = mask[[row for row, _, _ in rest]]
        first = before.sum(-1, keepdim=True)
        logits = self.model(
            input_ids=ids,
            attention_mask=torch.cat([before, behind], -1),
            position_ids=first + torch.arange(ids.shape[1], device=self._device),
            **{self._kept: kept},
            use_cache=True,
            logits_to_keep=0,
        ).logits
        for place, (row, number, answer) in enumerate(rest):
            found[row][number] += self._sum(logits[place], answer[1:])
        return found

    def _sum(self, logits: Any, tokens: Sequence[int]) -> float:
        """Return the log-probability of tokens, the first of which the first logits foretell."""
        import torch

        rows = logits[: len(tokens)].float()
        wanted = torch.tensor(tokens, device=rows.device).unsqueeze(-1)
        return float((rows.gather(-1, wanted).squeeze(-1) - rows.logsumexp(-1)).sum())

    def _padded(self, texts: Sequence[Sequence[int]], *, on_left: bool = False) -> tuple[Any, Any]:
        """Return the tokens of a batch and where they are, (texts, tokens) both."""
        import torch

        width = max(map(len, texts))
        ids = torch.zeros((len(texts), width), dtype=torch.long)
        mask = torch.zeros((len(texts), width), dtype=torch.long)
        for row, text in enumerate(texts):
            where = slice(width - len(text), None) if on_left else slice(len(text))
            ids[row, where] = torch.tensor(text)
            mask[row, where] = 1
        return ids.to(self._device), mask.to(self._device)


class _NoSharingError(Exception):
    """The model keeps something that must not be copied from row to row."""


def _copied(kept: Any, rows: Sequence[int], device: Any) -> Any:
    """Return keys and values of the prompts, one for each answer."""
    import torch

    if kept is None or any(type(layer).__name__ not in _CACHES for layer in kept.layers):
        raise _NoSharingError
    kept.batch_select_indices(torch.tensor(rows, device=device))
    return kept

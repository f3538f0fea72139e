"""Prompts with answers as padded batches, and what a model makes of the answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel, PreTrainedTokenizerFast


class Batch(NamedTuple):
    """Texts of unequal length, padded on the right.

    Attributes:
        ids: (texts, tokens).
        mask: (texts, tokens), 1 where there is a token.
        wanted: (texts, tokens - 1), true where the next token belongs to an answer.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    wanted: torch.Tensor


def batch_of(
    tokenizer: PreTrainedTokenizerFast, pairs: Sequence[tuple[str, str]], *, end: bool = True
) -> Batch:
    """Tokenize prompts and answers, each by itself, as lm-evaluation-harness splits them.

    Args:
        tokenizer: The model's.
        pairs: (prompt, answer).
        end: Whether the end token belongs to the answer.
    """
    lines, starts = [], []
    for prompt, answer in pairs:
        first = tokenizer(prompt).input_ids
        whole = tokenizer(prompt + answer).input_ids
        lines.append(whole + [tokenizer.eos_token_id] * end)
        starts.append(min(len(first), len(whole) - 1))
    width = max(map(len, lines))
    ids = torch.full((len(lines), width), tokenizer.eos_token_id)
    mask = torch.zeros((len(lines), width), dtype=torch.long)
    wanted = torch.zeros((len(lines), width - 1), dtype=torch.bool)
    for row, (line, start) in enumerate(zip(lines, starts, strict=True)):
        ids[row, : len(line)] = torch.tensor(line)
        mask[row, : len(line)] = 1
        wanted[row, start - 1 : len(line) - 1] = True
    return Batch(ids, mask, wanted)


def answer_loss(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Return the negative log-likelihood of each answer, summed over its tokens, in nats."""
    losses = torch.nn.functional.nll_loss(
        answer_log_probabilities(model, batch), batch.ids[:, 1:][batch.wanted], reduction="none"
    )
    rows = batch.wanted.nonzero()[:, 0]
    return torch.zeros(len(batch.ids), dtype=losses.dtype).index_add(0, rows, losses)


def answer_log_probabilities(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Return log-probabilities of all tokens at the answers' places, (places, vocabulary).

    There alone: vocabularies are large.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = inner.model(input_ids=batch.ids, attention_mask=batch.mask).last_hidden_state
    return torch.log_softmax(inner.lm_head(hidden[:, :-1][batch.wanted]).float(), -1)

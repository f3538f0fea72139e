"""How far the probabilities of one model are from another's, over a window of a text.

Beside `scoring` and `subject` the only file here that imports torch, inside of functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loragraft.evaluation.scoring import Scorer
    from loragraft.evaluation.windows import Window

#: Numbers of a chunk of places, 16 MB in float32: of the whole window one matrix is held, no more.
_CHUNK: Final = 1 << 22


class Sums(NamedTuple):
    """What is known of a window, summed over the tokens that are foretold.

    Attributes:
        kl: KL(reference ‖ model), in nats.
        agreed: Tokens where both find the same token likeliest.
        loss: −log-probability of the text's own tokens, in nats.
        outside: Probability that the reference gives to tokens that others do not have; known of
            the reference alone, 0 of all others.
    """

    kl: float
    agreed: float
    loss: float
    outside: float = 0.0


class Reference:
    """The probabilities that a model gives in a window, for others to be compared with.

    Attributes:
        loss: −log-probability of the text's own tokens, in nats.
        outside: Probability that it gives to tokens beyond those that are compared.
    """

    def __init__(self, scorer: Scorer, window: Window, size: int) -> None:
        """Run the model.

        Args:
            scorer: Of the model.
            window: What is read.
            size: Tokens that have a probability, the first ones; of what a head has beyond them
                nothing is left, and the others' probabilities are those among themselves.
        """
        import torch

        self._window, self._size = window, size
        whole = _logits(scorer, window)
        logits = whole[:, :size]
        self._logs = torch.empty(logits.shape, dtype=torch.float32, device=logits.device)
        self.outside = 0.0
        for where in _chunks(whole):
            self._logs[where] = logits[where].float().log_softmax(-1)
            self.outside += _outside(whole[where], size)
        self._best = self._logs.argmax(-1)
        self._tokens = _tokens(window, logits.device)
        self.loss = _loss(self._logs, self._tokens)

    def against(self, scorer: Scorer) -> Sums:
        """Run another model on the window and compare.

        Log-probabilities are float32, sums float64. With d = log p − log q, the sum is of
        p·d + (q − p) rather than p·d: the same, as both p and q sum to 1, but no term of it is
        negative, and rounding of the log-probabilities enters times d. So divergences far below
        the rounding of a logit are still seen, and equal logits give 0.
        """
        logits = _logits(scorer, self._window)[:, : self._size]
        kl = agreed = loss = 0.0
        for where in _chunks(logits):
            found = logits[where].float().log_softmax(-1)
            kl += _divergence(self._logs[where], found)
            agreed += float((found.argmax(-1) == self._best[where]).sum())
            loss += _loss(found, self._tokens[where])
        # Rounding of the terms may leave less than nothing; NaN stays NaN in this order.
        return Sums(max(kl, 0.0), agreed, loss)


def _logits(scorer: Scorer, window: Window) -> Any:
    """Return the logits where tokens are foretold, (places, rows of the head)."""
    import torch

    ids = torch.tensor([window.ids], device=scorer.model.device)
    logits = scorer.model(input_ids=ids, use_cache=False).logits[0]
    return logits[window.first - 1 : -1]


def _tokens(window: Window, device: Any) -> Any:
    import torch

    return torch.tensor(window.ids[window.first :], device=device)


def _chunks(logits: Any) -> Iterator[slice]:
    places, size = logits.shape
    step = max(1, _CHUNK // size)
    for start in range(0, places, step):
        yield slice(start, start + step)


def _outside(logits: Any, size: int) -> float:
    """Return the probability of all tokens but the first ones, summed over places."""
    if logits.shape[-1] <= size:
        return 0.0
    found = logits.double()
    inside = found[:, :size].logsumexp(-1) - found.logsumexp(-1)
    return float(inside.expm1().neg().sum())


def _loss(logs: Any, tokens: Any) -> float:
    return -float(logs.gather(-1, tokens.unsqueeze(-1)).double().sum())


def _divergence(logs: Any, others: Any) -> float:
    """Return Σ p·d + (q − p), where q − p is had from d, which loses nothing where both are near.

    Args:
        logs: log p, (places, tokens).
        others: log q, (places, tokens).
    """
    import torch

    gap = logs - others
    # The larger of p and q times 1 − e^−|d| is |q − p|, and overflows for no d.
    apart = torch.maximum(logs, others).exp_() * torch.expm1(-gap.abs()).neg_()
    terms = logs.exp() * gap - torch.copysign(apart, gap)
    return float(terms.sum(dtype=torch.float64))

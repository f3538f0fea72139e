"""What is known of a candidate's fidelity, and what is said of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from loragraft.wording import counted, percent

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class FidelityRow:
    """One candidate beside the tuned model and the base.

    Attributes:
        candidate: Its name.
        rank: Largest rank among the layers of its adapter; None where it has none.
        tokens: Tokens that were foretold.
        windows: Windows that the text was read in.
        window: Tokens of the longest, with those that stand before every text.
        kl: KL(tuned ‖ candidate), in nats per token.
        kl_low: Lower end of its 95 % interval; None where the text has too few windows.
        kl_high: Upper end.
        kl_base: KL(tuned ‖ base), in nats per token.
        removed: Share of it that the candidate removes, 1 − kl / kl_base: 1 acts as the tuned
            model does, 0 as the base, less than 0 is further away. None where kl_base is 0.
        removed_low: Lower end of its 95 % interval; None as that of `kl`, or where `kl_base` is
            not clearly more than 0.
        removed_high: Upper end.
        top1: Share of tokens for which it and the tuned model find the same token likeliest.
        top1_base: The same of the base.
        perplexity: exp of the mean −log-probability of the text's tokens.
        perplexity_base: The same of the base.
        perplexity_tuned: The same of the tuned model.
        same: Whether it gives the base's figures in every window, bit for bit.
        vocabulary: Tokens, the first ones, that probabilities are of, among themselves.
        added_tokens: Tokens that the tuned model's tokenizer adds to the base's; they are not
            among these.
        outside: Mean probability that the tuned model gives to all but these.
    """

    candidate: str
    rank: int | None
    tokens: int
    windows: int
    window: int
    kl: float
    kl_low: float | None
    kl_high: float | None
    kl_base: float
    removed: float | None
    removed_low: float | None
    removed_high: float | None
    top1: float
    top1_base: float
    perplexity: float
    perplexity_base: float
    perplexity_tuned: float
    same: bool
    vocabulary: int
    added_tokens: int
    outside: float

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain data."""
        return asdict(self)


def fidelity_words(rows: Sequence[FidelityRow], tuned: str = "TUNED") -> str:
    """Return in a sentence how much of the change every candidate reproduces."""
    if rows and rows[0].kl_base == 0.0:
        near = [f"{row.candidate}: KL {row.kl:.3g} nats a token from it" for row in rows if row.kl]
        told = f"{tuned} gives the base's probabilities, bit for bit: there is nothing to reproduce"
        return "; ".join([told, *near, *_added(rows, tuned)])
    return "; ".join([*(_words(row, tuned) for row in rows), *_added(rows, tuned)])


def _added(rows: Sequence[FidelityRow], tuned: str) -> list[str]:
    """Return in words that tokens do not count."""
    added = rows[0].added_tokens if rows else 0
    if not added:
        return []
    return [
        f"the text was cut by the base's tokenizer, and {counted(added, 'token')} that"
        f" {tuned}'s adds to it did not count"
    ]


def _words(row: FidelityRow, tuned: str) -> str:
    if row.same:
        return (
            f"{row.candidate} changes nothing: KL {row.kl:.3g} nats a token from {tuned}, the"
            " base's bit for bit"
        )
    where = (
        f"{row.candidate}: KL {row.kl:.3g} nats a token from {tuned}, where the base is at"
        f" {row.kl_base:.3g}"
    )
    removed, low, high = row.removed or 0.0, row.removed_low, row.removed_high
    if low is not None and high is not None and low <= 0.0 <= high:
        return f"{where}: no nearer than the base, as far as this text shows"
    if removed <= 0.0:
        return f"{where}: further away than the base"
    told = f"{where}: {percent(removed)} of the change reproduced"
    if low is None or high is None:
        return told
    return f"{told} (95 %: {_number(low)} to {_number(high)})"


def _number(share: float) -> str:
    return percent(share).removesuffix("%")

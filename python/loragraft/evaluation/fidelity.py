"""Fidelity: how near a model with an adapter is to the tuned model, on a text and no questions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from loragraft.errors import FormatError, NonFiniteError
from loragraft.evaluation.batches import is_out_of_memory
from loragraft.evaluation.bootstrap import Interval, ratio_interval, resampled_means
from loragraft.evaluation.candidate import BASE, Candidate, Kind
from loragraft.evaluation.divergence import Reference, Sums
from loragraft.evaluation.fidelity_journal import FidelityJournal
from loragraft.evaluation.fidelity_row import FidelityRow
from loragraft.evaluation.vocabulary import common_vocabulary
from loragraft.evaluation.windows import WINDOW, cut_windows
from loragraft.wording import counted, percent, quoted, reason

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from loragraft.evaluation.subject import Subject
    from loragraft.evaluation.text import FidelityText
    from loragraft.evaluation.vocabulary import Vocabulary
    from loragraft.evaluation.windows import Window
    from loragraft.evaluation.work import Progress

    Vector = NDArray[np.float64]

#: Windows below which resamples of them tell nothing of others.
FEWEST: Final = 8
#: Mean losses beyond it, in nats, have no perplexity that a float holds.
_LARGEST_LOSS: Final = 700.0
_BASE: Final = Candidate(BASE, Kind.BASE, Path())
_TUNED: Final = Candidate("the tuned model", Kind.MODEL, Path())


def measure_fidelity(
    base: Subject,
    tuned: Subject,
    candidates: Sequence[Candidate],
    text: FidelityText,
    *,
    window: int = WINDOW,
    seed: int = 0,
    journal: FidelityJournal | None = None,
    progress: Progress | None = None,
) -> tuple[FidelityRow, ...]:
    """Compare what a model with its adapters foretells of a text with what a tuned model does.

    Both models are in memory, and of the tuned one the log-probabilities of one window. Windows
    are what the intervals resample: tokens of one window are not independent.

    Args:
        base: The model, with the adapters beside it.
        tuned: The model to come near to.
        candidates: Adapters of the base, controls included.
        text: What is read.
        window: Tokens of a window at most.
        seed: Of the resamples.
        journal: Keeps what is found; what it has already is not computed again.
        progress: Called with (candidate, windows done by all, windows in all).

    Returns:
        A row for each candidate, in their order.

    Raises:
        MismatchError: The two models have different tokens.
        FormatError: The text is too short, or the memory will not do.
        NonFiniteError: A model computes NaN or Inf.
    """
    vocabulary = common_vocabulary(base, tuned)
    windows = cut_windows(base, tuned, text, window, vocabulary)
    kept = FidelityJournal.begin(None) if journal is None else journal
    everyone = (_BASE, *candidates)
    goal, sums = _run(base, tuned, everyone, windows, vocabulary.size, kept, progress)
    tokens = np.array([one.tokens for one in windows], np.float64)
    longest = max(len(one.ids) for one in windows)
    rows = []
    for one in candidates:
        found = _Found(tokens, goal, sums[BASE], sums[one.name], longest, vocabulary)
        rows.append(_row(one.name, _rank(base, one), found, found.intervals(seed)))
    return tuple(rows)


def fidelity_notes(
    base: Subject, tuned: Subject, text: FidelityText, rows: Sequence[FidelityRow]
) -> tuple[str, ...]:
    """Return what readers of the rows must know: what was read, and how."""
    notes = []
    if rows:
        tokens, windows, window = rows[0].tokens, rows[0].windows, rows[0].window
        notes.append(
            f"fidelity: {counted(tokens, 'token')} of {text.name}, read in"
            f" {counted(windows, 'window')} of at most {window} tokens"
        )
        if windows < FEWEST:
            notes.append(
                f"fidelity has no intervals: fewer than {FEWEST} windows; give a longer text"
            )
    common = common_vocabulary(base, tuned)
    if common.added:
        notes += _added_notes(common, text, rows)
    elif common.heads[0] != common.heads[1]:
        here, there = common.heads
        notes.append(
            f"the heads have {here} (base) and {there} rows (tuned), and the tokenizers agree:"
            f" probabilities are those of the first {common.size} among themselves"
        )
    return tuple(notes)


def _added_notes(
    common: Vocabulary, text: FidelityText, rows: Sequence[FidelityRow]
) -> Iterator[str]:
    """Yield what it means that the tuned model's tokenizer has more tokens than the base's."""
    told = f" (it gives the others {percent(rows[0].outside)} on average)" if rows else ""
    yield (
        f"the tuned model's tokenizer adds {counted(len(common.added), 'token')} to the base's, the"
        f" first {quoted(common.added[0])}: the text was cut by the base's tokenizer, and"
        f" probabilities are those of the {common.size} tokens that both have, among"
        f" themselves{told}; whether and when a candidate would write an added token is not seen"
    )
    if common.without_added(text.text) != text.text:
        yield (
            f"{text.name} holds added tokens, which both models read in the pieces that the base's"
            " tokenizer cuts them into: the tuned model was hardly tuned on these"
        )


def _run(
    base: Subject,
    tuned: Subject,
    everyone: Sequence[Candidate],
    windows: Sequence[Window],
    size: int,
    journal: FidelityJournal,
    progress: Progress | None,
) -> tuple[Vector, dict[str, Vector]]:
    """Return what `Sums` has of the tuned model and of all others, (windows, 4).

    A window is read by those of whom the journal has nothing of it.
    """
    tell = progress or (lambda _what, _done, _total: None)
    journal.expect([one.name for one in everyone], len(windows))
    for number, window in enumerate(windows):
        missing = [one for one in everyone if number not in journal.of(one.name)]
        if not missing:
            continue
        each = _read(base, tuned, missing, window, size)
        goal = next(each)
        if number not in journal.of(None):
            journal.record(number, None, goal)
        for one in missing:
            tell(one.name, journal.done, journal.total)
            journal.record(number, one.name, next(each))
    tell(everyone[-1].name, journal.done, journal.total)
    others = {one.name: _table(journal, one.name, len(windows)) for one in everyone}
    return _table(journal, None, len(windows)), others


def _table(journal: FidelityJournal, name: str | None, windows: int) -> Vector:
    """Return what `Sums` has of one, (windows, 4)."""
    found = journal.of(name)
    return np.array([found[number] for number in range(windows)], np.float64)


def _read(
    base: Subject, tuned: Subject, others: Sequence[Candidate], window: Window, size: int
) -> Iterator[Sums]:
    """Yield what the tuned model makes of a window, compared with itself, then what others do.

    Raises:
        FormatError: The memory will not do.
        NonFiniteError: A model computes NaN or Inf.
    """
    try:
        with tuned.being(_TUNED) as scorer:
            reference = Reference(scorer, window, size)
        own = Sums(0.0, window.tokens, reference.loss, reference.outside)
        yield _finite(own, _TUNED.name)
        for one in others:
            with base.being(one) as scorer:
                found = reference.against(scorer)
            yield _finite(found, one.name)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise FormatError(
            f"out of memory with {counted(len(window.ids), 'token')} of text at a time beside both"
            f" models ({reason(error)}): use --dtype bf16, or a machine with more memory"
        ) from error


def _finite(found: Sums, name: str) -> Sums:
    if not all(map(math.isfinite, found)):
        raise NonFiniteError(
            f"{name}: computes NaN or Inf on the text: its weights hold some, or overflow; try"
            " --dtype fp32"
        )
    return found


class _Found(NamedTuple):
    """What is known of the windows.

    Attributes:
        tokens: That are foretold, (windows,).
        goal: What `Sums` has of the tuned model, (windows, 4).
        base: The same of the base.
        own: The same of the candidate.
        longest: Tokens of the longest window.
        vocabulary: What the models have in common.
    """

    tokens: Vector
    goal: Vector
    base: Vector
    own: Vector
    longest: int
    vocabulary: Vocabulary

    def intervals(self, seed: int) -> tuple[Interval | None, Interval | None]:
        """Return those of the KL per token and of the share removed."""
        if len(self.tokens) < FEWEST:
            return None, None
        base, own = self.base[:, 0], self.own[:, 0]
        gain = base - own
        columns = np.column_stack([self.tokens, base, own, gain])
        length, whole, left, gained = resampled_means(columns, seed).T
        # Windows differ in length, so that a mean per token is a ratio, too.
        removed = ratio_interval(gain, base, gained, whole)
        return ratio_interval(own, self.tokens, left, length), removed


def _row(
    name: str,
    rank: int | None,
    found: _Found,
    intervals: tuple[Interval | None, Interval | None],
) -> FidelityRow:
    count = float(found.tokens.sum())
    kl, agreed, loss, _ = map(float, found.own.sum(0) / count)
    kl_base, agreed_base, loss_base, _ = map(float, found.base.sum(0) / count)
    _, _, loss_tuned, outside = map(float, found.goal.sum(0) / count)
    near, removed = ((None, None) if one is None else one for one in intervals)
    return FidelityRow(
        candidate=name,
        rank=rank,
        tokens=int(count),
        windows=len(found.tokens),
        window=found.longest,
        kl=kl,
        kl_low=near[0],
        kl_high=near[1],
        kl_base=kl_base,
        removed=1.0 - kl / kl_base if kl_base > 0.0 else None,
        removed_low=removed[0],
        removed_high=removed[1],
        top1=agreed,
        top1_base=agreed_base,
        perplexity=_perplexity(loss),
        perplexity_base=_perplexity(loss_base),
        perplexity_tuned=_perplexity(loss_tuned),
        vocabulary=found.vocabulary.size,
        added_tokens=len(found.vocabulary.added),
        outside=outside,
        same=bool(np.array_equal(found.base, found.own)),
    )


def _perplexity(loss: float) -> float:
    return math.exp(min(loss, _LARGEST_LOSS))


def _rank(base: Subject, candidate: Candidate) -> int | None:
    """Return the largest rank that PEFT built for a candidate's adapter."""
    name = base.names.get(candidate.name, "")
    ranks: list[Mapping[str, int]] = [
        module.r
        for module in base.language_model.model.modules()
        if isinstance(getattr(module, "r", None), dict)
    ]
    return max((int(by_name[name]) for by_name in ranks if name in by_name), default=None)

"""What both models make of the calibration texts' answers, with the adapter and without."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from loragraft.calibration.collection import ModuleRows, collect
from loragraft.calibration.language_model import LanguageModel, open_model, require_whole
from loragraft.calibration.pairing import paired_places
from loragraft.calibration.regression import every_fifth
from loragraft.calibration.texts import read_texts
from loragraft.errors import MismatchError
from loragraft.transferring.distilling.answers import answered
from loragraft.transferring.distilling.vocabulary import beginnings
from loragraft.transferring.distilling.wanted import Shift, joined
from loragraft.wording import counted, percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from loragraft.calibration.language_model import Place, Tokens
    from loragraft.checkpoint import Checkpoint
    from loragraft.transferring.distilling.wanted import Wanted
    from loragraft.transferring.plan import TransferPlan

    Array = NDArray[np.float32]

#: Places looked at, at most.
_PLACES: Final = 8192
#: Fewer places tell nothing, held out or not.
_LEAST: Final = 50
#: Less of the source's probability on tokens that both sides know, and the rest drowns it.
_COVERED: Final = 0.5
#: Places whose distributions over all tokens are held at once.
_AT_ONCE: Final = 64


class Reading(NamedTuple):
    """The target on the answers, and what is wanted of it there.

    Attributes:
        target: The target.
        texts: Prompts and answers as it cuts them.
        places: Where the source ends a token too.
        held: Which of them are held out: those of every fifth prompt.
        wanted: What is wanted there.
        notes: What a reader must know, a sentence each.
    """

    target: LanguageModel
    texts: tuple[Tokens, ...]
    places: tuple[Place, ...]
    held: NDArray[np.bool_]
    wanted: Wanted
    notes: tuple[str, ...]


def read(plan: TransferPlan) -> Reading:
    """Let the source answer what has no answer, and run both models on the answers.

    Raises:
        MismatchError: The source ends no answer, or too few tokens of both models end together.
        FormatError: A file cannot be read, or transformers cannot load a model.
        MissingDependencyError: torch, transformers or peft is not installed.
    """
    options = plan.options
    assert options.calibration is not None
    given = read_texts(options.calibration)
    sides = (plan.source.checkpoint, plan.target)
    for side in sides:
        require_whole(side)
    source = open_model(sides[0].directory, plan.source.adapter.directory, threads=options.threads)
    texts, notes = answered(source, given, options.seed)
    target = open_model(sides[1].directory, threads=options.threads)
    own, other = (tuple(model.tokens(one.whole) for one in texts) for model in (source, target))
    pairs = paired_places(own, other, [len(one.prompt) for one in texts])
    count = len(pairs.source)
    if count < _LEAST:
        raise MismatchError(
            f"tokens of source and target end at the same character at {counted(count, 'place')} of"
            f" the answers, at least {_LEAST} are needed: give more texts"
        )
    pairs = pairs.evenly(_PLACES)
    wanted, shared = _wanted(sides, (source, target), (own, other), (pairs.source, pairs.target))
    held = _held(pairs.target, [one.prompt or one.whole for one in texts])
    note = (
        f"distill: {counted(len(given), 'calibration text')}, {len(held)} of {count} places in"
        f" {counted(len(texts), 'answer')}, {int(held.sum())} of them held out; {shared} tokens are"
        " the same in both vocabularies, the others count for the token of both that they begin"
        " with"
    )
    return Reading(target, other, pairs.target, held, wanted, (note, *notes))


def states(
    model: LanguageModel, texts: Sequence[Tokens], places: Sequence[Place], width: int
) -> ModuleRows:
    """Return what the last norm reads and writes, (places, d) each.

    Raises:
        MismatchError: It is not what its place says.
        NonFiniteError: NaN or Inf among the numbers.
    """
    name = model.last_norm
    found = collect(model, texts, places, {name: (width, width)})[name]
    if isinstance(found, str):
        raise MismatchError(f"{found}; choose another --method")
    return found


def _wanted(
    sides: tuple[Checkpoint, Checkpoint],
    models: tuple[LanguageModel, LanguageModel],
    texts: tuple[tuple[Tokens, ...], tuple[Tokens, ...]],
    places: tuple[tuple[Place, ...], tuple[Place, ...]],
) -> tuple[Wanted, int]:
    """Return what is wanted of the target at its places, and how many tokens both share."""
    source, target = models
    widths = [model.unembedding.shape[1] for model in models]
    tuned = states(source, texts[0], places[0], widths[0]).outputs
    with source.without_adapter():
        alone = states(source, texts[0], places[0], widths[0]).outputs
    own = states(target, texts[1], places[1], widths[1]).outputs
    sizes = (len(source.unembedding), len(target.unembedding))
    vocabulary = beginnings(source, target, sides, sizes)
    shift = Shift(vocabulary)
    parts = []
    for start in range(0, len(own), _AT_ONCE):
        here = slice(start, start + _AT_ONCE)
        with_it = source.log_probabilities(tuned[here])
        with source.without_adapter():
            without = source.log_probabilities(alone[here])
        parts.append(shift.wanted(target.log_probabilities(own[here]), with_it, without))
    found = joined(parts)
    covered = float(found.covered.mean())
    if covered < _COVERED:
        raise MismatchError(
            f"of what the source with its adapter says only {percent(covered)} begins with one of"
            f" the {counted(vocabulary.shared, 'token')} that both vocabularies have, at least"
            f" {percent(_COVERED)} are needed: choose another --method"
        )
    return found, vocabulary.shared


def _held(places: Sequence[Place], prompts: Sequence[str]) -> NDArray[np.bool_]:
    """Hold out whole prompts: neighbours resemble each other, and so do answers to one prompt."""
    number = {prompt: at for at, prompt in enumerate(dict.fromkeys(prompts))}
    of = [number[prompts[place.text]] for place in places]
    _, order = np.unique(of, return_inverse=True)
    count = int(order.max()) + 1
    return every_fifth(count)[order] if count >= 10 else every_fifth(len(places))

"""Maps between what two models compute on the same texts, module by module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from loragraft.calibration.chance import TokenChance
from loragraft.calibration.collection import ModuleRows
from loragraft.calibration.language_model import open_model, require_whole
from loragraft.calibration.regression import fit
from loragraft.calibration.ridge import span
from loragraft.calibration.sample import take_sample
from loragraft.calibration.texts import read_texts
from loragraft.transferring.joining import indices
from loragraft.transferring.maps import Chain, Completed, Diagonal, Term
from loragraft.transferring.methods.pair_maps import PairMaps
from loragraft.transferring.methods.watched_pairs import PLACES_BYTES, WatchedPairs, numbers_of
from loragraft.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from loragraft.architecture import LinearModule
    from loragraft.calibration.regression import Fit
    from loragraft.calibration.sample import Sample
    from loragraft.transferring.maps import LinearMap
    from loragraft.transferring.methods.method import Method, Models
    from loragraft.transferring.methods.watched_pairs import WatchedPair

    Rows = NDArray[np.floating]

NAME: Final = "activations"
#: Places that are looked at, at most.
_PLACES: Final = 4096
#: A map counts where it leaves at most nine tenths of what chance leaves.
_CLEAR: Final = 0.1


class Activations:
    """Ridge or Procrustes maps of each module's inputs and outputs, from calibration texts.

    With x what a module reads and y what it writes at places where both models have read the same
    characters: y_t ≈ P y_s + c and x_s ≈ M x_t, so that ΔW_t x_t = P ΔW_s M x_t and Qᵀ = M. An
    update has no use for c; without it P would make it of whatever hardly varies in y_s. Of x the
    mean counts, for an update is multiplied with it.

    What a module with more outputs than inputs writes never fills its space, but an update may
    write anywhere. In the directions that y_s leaves out neurons map as those that down_proj reads,
    each in units of its own size: products of two outputs are of another size than these.
    """

    name = NAME
    calibrated = True

    def prepare(self, models: Models) -> ActivationMaps:
        """Load both models, cut the texts and choose the places.

        Raises:
            MismatchError: Too few places where tokens of both end.
            FormatError: A file cannot be read, or transformers cannot load a model.
            MissingDependencyError: torch, transformers or peft is not installed.
        """
        options = models.options
        assert options.calibration is not None
        texts = read_texts(options.calibration)
        sides = (models.source.checkpoint, models.target.checkpoint)
        for side in sides:
            require_whole(side)
        own, other = (open_model(side.directory, threads=options.threads) for side in sides)
        places = min(_PLACES, PLACES_BYTES // (4 * numbers_of(models)))
        return ActivationMaps(models, take_sample(own, other, texts, places))


class _Explained(NamedTuple):
    """How much of one side is explained.

    Attributes:
        share: By the map, of what was held out.
        chance: By the tokens alone.
        how: Kind of the map.
    """

    share: float
    chance: float
    how: str


class _Fitted(NamedTuple):
    """A map with what it was made from."""

    origin: Rows
    goal: Rows
    found: Fit
    explained: _Explained


class ActivationMaps:
    """Two models on the same texts; gives each pair of modules its maps."""

    def __init__(self, models: Models, sample: Sample) -> None:
        """Prepare; nothing is run before the first pair asks for it.

        Args:
            models: Both models and the pairs to come.
            sample: What they read, and where they are looked at.
        """
        self._sample = sample
        self._pairs = WatchedPairs(models, sample)
        self._wide = max(max(pair.target.whole.shape) for pair in models.pairs)
        seed = models.options.seed
        self._chances = [
            TokenChance(side.tokens, sample.held, seed) for side in (sample.source, sample.target)
        ]
        #: The last maps of inputs and of neurons: q, k and v have theirs in common, gate and up.
        self._last: dict[str, _Fitted] = {}
        self._explained: dict[tuple[str, str], tuple[_Explained, _Explained]] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """What was read, where it was looked at, and how much the maps explain on the whole."""
        sample = self._sample
        texts = len({place.text for place in sample.source.places})
        notes = [
            f"{NAME}: {counted(texts, 'calibration text')}, {len(sample.held)} of {sample.paired}"
            f" places where tokens of both models end, {int(sample.held.sum())} of them held out"
        ]
        if self._explained:
            notes.append(f"{NAME}: {_overall(self._explained.values())}")
        if len(sample.held) < self._wide:
            notes.append(
                f"{NAME}: {len(sample.held)} places are fewer than the {self._wide} coordinates of"
                " the widest module, so its maps are not determined: give more texts"
            )
        return tuple(notes)

    def method(self, source: LinearModule, target: LinearModule) -> Method:
        """Return the maps of one pair of modules; runs both models where they have not been yet."""
        pair = self._pairs.find(source, target)
        if pair.why:
            return PairMaps(
                NAME, why=f"{NAME}: {pair.why}; choose another --method, or --exclude it"
            )
        sides = (pair.source, pair.target)
        y_s, y_t = (self._about_mean(s.rows.outputs[:, indices(s.part.rows)]) for s in sides)
        outputs = self._fit(y_s, y_t, self._chances[0])
        inputs = self._shared("inputs", pair.target.rows.inputs, pair.source.rows.inputs, 1)
        if pair.is_planned:
            self._explained[source.name, target.name] = outputs.explained, inputs.explained
        told = _told(outputs.explained, inputs.explained)
        forward, more = self._completed(pair, outputs)
        term = Term(forward, inputs.found.map.backward)
        return PairMaps(NAME, (term,), told + more)

    def _fit(self, origin: Rows, goal: Rows, chance: TokenChance) -> _Fitted:
        found = fit(origin, goal, self._sample.held)
        alone = chance.explained(origin.shape[1], goal)
        return _Fitted(origin, goal, found, _Explained(found.explained, alone, found.name))

    def _shared(self, which: str, origin: Rows, goal: Rows, side: int) -> _Fitted:
        """Return a map that neighbours have in common, where the last one was made from the same.

        Args:
            which: Of what.
            origin: F.
            goal: G.
            side: Whose rows F is: 0 of the source, 1 of the target.
        """
        last = self._last.get(which)
        if last is None or not (
            np.array_equal(last.origin, origin) and np.array_equal(last.goal, goal)
        ):
            last = self._last[which] = self._fit(origin, goal, self._chances[side])
        return last

    def _about_mean(self, rows: Rows) -> Rows:
        """Return rows less the mean of those that are not held out."""
        return np.asarray(rows - rows[~self._sample.held].mean(axis=0, dtype=np.float64))

    def _even(self, rows: Rows) -> Rows:
        """Return rows about the mean in which every coordinate is as large as any other."""
        centred = self._about_mean(rows)
        return np.asarray(centred / _scales(centred))

    def _completed(self, pair: WatchedPair, outputs: _Fitted) -> tuple[LinearMap, str]:
        """Return the map of the outputs, completed where they do not fill their space; a remark."""
        forward = outputs.found.map.forward
        width, most = pair.source.part.linear.shape
        if width <= min(most, len(outputs.origin)):
            return forward, ""
        basis = span(outputs.origin.astype(np.float64), most)
        told = f"; the source's outputs lie in {basis.shape[1]} of {width} dimensions"
        own, other = pair.source.readers, pair.target.readers
        if not isinstance(own, ModuleRows) or not isinstance(other, ModuleRows):
            return forward, f"{told}, what the update does in the others is left out"
        neurons = self._shared("neurons", self._even(own.inputs), self._even(other.inputs), 0)
        told += f", {neurons.explained.share:.3f} of the neurons beyond them explained by"
        beyond = Chain(
            (
                Diagonal(1.0 / _scales(outputs.origin)),
                neurons.found.map.forward,
                Diagonal(_scales(outputs.goal)),
            )
        )
        return Completed(basis, forward, beyond), f"{told} {neurons.explained.how}"


def _scales(rows: Rows) -> NDArray[np.float64]:
    """Return the root mean square of every coordinate; 1 where it is always zero."""
    found = np.sqrt(np.mean(np.square(rows, dtype=np.float64), axis=0))
    return np.where(found > 0.0, found, 1.0)


def _told(outputs: _Explained, inputs: _Explained) -> str:
    """Say what the maps of one pair explain."""
    sides = {"outputs": outputs, "inputs": inputs}
    told = ", ".join(
        f"{one.share:.3f} of {side} explained by {one.how}" for side, one in sides.items()
    )
    told += f" (tokens alone {outputs.chance:.3f} and {inputs.chance:.3f})"
    for side, one in sides.items():
        if one.share <= 0.0:
            told += f"; the map of {side} explains nothing on texts held out"
        elif not _clear(one.share, one.chance):
            told += f"; the map of {side} explains no more than the tokens alone"
    return told


def _overall(explained: Iterable[tuple[_Explained, _Explained]]) -> str:
    """Say what all maps explain on average."""
    shares = np.array([[side[:2] for side in pair] for pair in explained]).mean(axis=0)
    (out, out_chance), (into, into_chance) = shares.tolist()
    told = (
        f"on texts held out the maps explain {out:.3f} of outputs and {into:.3f} of inputs on"
        f" average, where the tokens alone explain {out_chance:.3f} and {into_chance:.3f} (1 is"
        " all)"
    )
    if _clear(out, out_chance) and _clear(into, into_chance):
        return told
    return f"{told}: about what chance gives, so nothing here tells that the models correspond"


def _clear(share: float, chance: float) -> bool:
    return share - chance > _CLEAR * (1.0 - chance)

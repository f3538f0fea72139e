"""One map of the residual stream for two whole models, from the tokens that both know."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from loragraft.errors import MismatchError
from loragraft.native import resolve_threads
from loragraft.transferring.maps import Chain, Diagonal, LinearMap, Matrix, Term
from loragraft.transferring.methods.pair_maps import PairMaps
from loragraft.transferring.stream.heads import Attention, AttentionMaps, attention_maps
from loragraft.transferring.stream.neurons import (
    NeuronMap,
    match_neurons,
    neuron_spaces,
    told,
)
from loragraft.transferring.stream.procrustes import stream_map
from loragraft.transferring.stream.side import ATTENTION, MLP, WRITERS, inverse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from loragraft.architecture import LinearModule
    from loragraft.transferring.methods.method import Method, Models
    from loragraft.transferring.stream.procrustes import StreamMap
    from loragraft.transferring.stream.side import Side

NAME: Final = "shared-vocab"


class SharedVocab:
    """LoRASuite's map by shared tokens (arXiv 2505.13515), orthogonal, and gains folded in.

    The streams are taken to be turned against each other: h_t = c R h_s, with R from the
    embeddings of shared tokens (`stream_map`). A module that reads sees x = G h / rms(h). As h_s
    is R⁺ h_t / c and ‖x‖ is √d but for G, G_s⁻¹ x_s = √(d_s/d_t) Rᵀ G_t⁻¹ x_t, where R has
    orthonormal columns. So that ΔW_t x_t = P ΔW_s x_s for every x:

        Q = √min(1, d_s/d_t) · G_t⁻¹ R G_s for inputs of q, k, v, gate and up,
        P = c R for outputs of o and down; G_t⁻¹ R G_s where a norm follows, as in Gemma 2.

    The spaces inside a block, heads × head_dim and the MLP's neurons, map by `attention_maps` and
    `match_neurons`, which compare the weights of both models through R. LoRASuite takes
    W = pinv(E_s) E_t in place of R, and M = W_t W W_sᵀ inside; neither keeps norms.
    """

    name = NAME
    calibrated = False

    def prepare(self, models: Models) -> SharedVocabulary:
        """Find the map of the residual stream.

        Raises:
            MismatchError: Too few shared tokens, or no embedding.
            NonFiniteError: NaN or Inf in an embedding.
            FormatError: A file cannot be read.
        """
        source, target = models.source, models.target
        found = stream_map(source.reader, source.checkpoint, target.checkpoint)
        return SharedVocabulary(source, target, found)


@dataclass(slots=True)
class SharedVocabulary:
    """Two models, the map between their residual streams, and what lies inside their blocks.

    Attributes:
        source: The source.
        target: The target.
        stream: The map.
    """

    source: Side
    target: Side
    stream: StreamMap
    #: The maps of the last attention and of the last MLP: modules come block by block.
    _attention: tuple[tuple[str, ...], AttentionMaps] | None = field(default=None, init=False)
    _neurons: tuple[tuple[str, ...], NeuronMap] | None = field(default=None, init=False)

    @property
    def notes(self) -> tuple[str, ...]:
        """How many tokens the map was made from, how well it fits, and how they were paired."""
        found = (
            f"{NAME}: one map of the residual stream from {self.stream.tokens} shared tokens; mean"
            f" cosine {self.stream.fit:.3f} on tokens held out (0 is chance): that the models are"
            " turned against each other is assumed, not shown"
        )
        return (found, f"{NAME}: {self.stream.note}") if self.stream.note else (found,)

    def method(self, source: LinearModule, target: LinearModule) -> Method:
        """Return the maps of one pair of modules."""
        try:
            return self._maps(source, target)
        except MismatchError as error:
            return PairMaps(NAME, why=f"{NAME}: {error}; choose another --method, or --exclude it")

    def _maps(self, source: LinearModule, target: LinearModule) -> PairMaps:
        kind = target.kind
        if kind != source.kind or kind not in (*ATTENTION, *MLP):
            known = ", ".join((*ATTENTION, *MLP))
            raise MismatchError(f"knows the spaces of {known}, not of {source.kind} and {kind}")
        outer = self._outer(source, target)
        if kind in MLP:
            inner: LinearMap = self._mlp(source, target)
            remark = told(*(one.shape[kind == "down_proj"] for one in (source, target)))
        else:
            maps = self._heads(source, target)
            inner, remark = getattr(maps, kind[0]), maps.told
        term = Term(outer, inner) if kind in WRITERS else Term(inner, outer)
        return PairMaps(NAME, (term,), remark)

    def _outer(self, source: LinearModule, target: LinearModule) -> LinearMap:
        """Return the map on the side of the residual stream, G_t⁻¹ R G_s with its scale."""
        own, other = self.source.gain(source), self.target.gain(target)
        rotation = self.stream.rotation
        if source.kind in WRITERS:
            scale = self.stream.scale if own is None and other is None else 1.0
        else:
            scale = min(1.0, rotation.shape[1] / rotation.shape[0]) ** 0.5
        maps: list[LinearMap] = [] if own is None else [Diagonal(own)]
        maps.append(Matrix(scale * rotation))
        if other is not None:
            maps.append(Diagonal(inverse(other)))
        return Chain(tuple(maps))

    def _heads(self, source: LinearModule, target: LinearModule) -> AttentionMaps:
        own = self.source.siblings(source, ATTENTION)
        other = self.target.siblings(target, ATTENTION)
        key = (own[0].name, other[0].name)
        if self._attention is None or self._attention[0] != key:
            rows = [self.source.seen(one) for one in own]
            # In single precision: whose heads belong together is no close call.
            turn = self.stream.rotation.astype(np.float32)
            others = [self.target.seen(one) @ turn for one in other]
            maps = attention_maps(_attention(rows, self.source), _attention(others, self.target))
            self._attention = key, maps
        return self._attention[1]

    def _mlp(self, source: LinearModule, target: LinearModule) -> NeuronMap:
        own, other = self.source.siblings(source, MLP), self.target.siblings(target, MLP)
        key = (own[0].name, other[0].name)
        if self._neurons is None or self._neurons[0] != key:
            lines = (partial(self.source.unit_lines_times, one) for one in own)
            others = (partial(self.target.unit_lines_times, one) for one in other)
            most = max(own[0].shape[0], other[0].shape[0])
            spaces = neuron_spaces(self.stream.rotation, most)
            threads = resolve_threads(self.source.threads)
            self._neurons = key, match_neurons(lines, others, spaces, threads)
        return self._neurons[1]


def _attention(rows: Sequence[NDArray[np.floating]], side: Side) -> Attention:
    """Cut the rows of q, k, v and o into heads."""
    heads = side.heads()
    size, left = divmod(len(rows[0]), heads)
    if left or size % 2 or len(rows[1]) % size or len(rows[1]) != len(rows[2]):
        raise MismatchError(f"queries of {len(rows[0])} rows are not {heads} heads of even size")
    if len(rows[3]) != len(rows[0]) or heads % (len(rows[1]) // size):
        raise MismatchError(f"{heads} query heads do not fit the shapes beside them")
    wide = (one.astype(np.float64, copy=False) for one in rows)
    return Attention(*(one.reshape(-1, size, one.shape[1]) for one in wide))

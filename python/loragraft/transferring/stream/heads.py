"""Attention heads of two models: who is who, and how the space within a head maps."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from loragraft.transferring.stream.assignment import assign, shared_assignment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from loragraft.transferring.maps import Columns

    Array = NDArray[np.float64]
    #: (head of the target, head of the source).
    Heads = Sequence[tuple[int, int]]


class Attention(NamedTuple):
    """The weights of an attention as rows in one residual stream, gains folded in.

    Attributes:
        q: (query heads, head_dim, d).
        k: (kv heads, head_dim, d).
        v: (kv heads, head_dim, d).
        o: Columns of the output projection, (query heads, head_dim, d).
    """

    q: Array
    k: Array
    v: Array
    o: Array

    @property
    def group(self) -> int:
        """Query heads for each head of keys and values."""
        return len(self.q) // len(self.k)


@dataclass(frozen=True, slots=True)
class HeadMap:
    """A map from heads to heads: Σ weight · block for every pair.

    Attributes:
        heads: Number of the target's heads.
        blocks: (head of the target, head of the source) -> (head_dim_t, head_dim_s), weighted.
    """

    heads: int
    blocks: Mapping[tuple[int, int], Array]

    def __call__(self, columns: Columns) -> Columns:
        """Map columns head by head: (heads_s · head_dim_s, k) to (heads_t · head_dim_t, k)."""
        rows, inner = next(iter(self.blocks.values())).shape
        heads = columns.reshape(-1, inner, columns.shape[1])
        out = np.zeros((self.heads, rows, columns.shape[1]))
        for (target, source), block in self.blocks.items():
            out[target] += block @ heads[source]
        return out.reshape(-1, columns.shape[1])


class AttentionMaps(NamedTuple):
    """The maps of the inner spaces of one attention.

    Attributes:
        q: Outputs of the queries' projection.
        k: Outputs of the keys'.
        v: Outputs of the values'.
        o: Inputs of the output projection.
        told: What a reader must know; empty where there is nothing.
    """

    q: HeadMap
    k: HeadMap
    v: HeadMap
    o: HeadMap
    told: str


def attention_maps(source: Attention, target: Attention) -> AttentionMaps:
    """Match heads, and map what lies within them.

    The target's queries, keys and values are averages of the heads that they stand for; the
    columns of the output projection that belong to one head of the source are shared by all that
    stand for it.

    Queries and keys keep their rotary pairs, i with i + head_dim/2. Values may be turned
    within a head at will, the output projection with them: Z is the (semi-)orthogonal matrix with
    the least ‖V_t − Z V_s‖² + ‖O_t − Z O_s‖².
    """
    scores = head_scores(source, target)
    groups = match_groups(scores, source.group, target.group)
    queries = match_queries(scores, groups, source.group, target.group)
    turn = rotary(source.q.shape[1], target.q.shape[1])
    values = {pair: _values(pair, queries, source, target) for pair in groups}
    per_query = {(t, s): values[t // target.group, s // source.group] for t, s in queries}
    return AttentionMaps(
        _averaged(dict.fromkeys(queries, turn), len(target.q)),
        _averaged(dict.fromkeys(groups, turn), len(target.k)),
        _averaged(values, len(target.v)),
        _divided(per_query, len(target.q)),
        _told(source, target),
    )


def head_scores(source: Attention, target: Attention) -> Array:
    """Return the likeness of all query heads: cos(W_qᵀW_k) + cos(W_oW_v), (heads_s, heads_t).

    Neither product depends on the basis within a head. ⟨Q_sᵀK_s, Q_tᵀK_t⟩ is the sum over
    Q_sQ_tᵀ ⊙ K_sK_tᵀ, so no d × d matrix is formed (after LoRASuite, arXiv 2505.13515).
    """
    return _cosines((source.q, source.k), (target.q, target.k)) + _cosines(
        (source.o, source.v), (target.o, target.v)
    )


def match_groups(scores: Array, own: int, other: int) -> Heads:
    """Match heads of keys and values by their query heads, one to one as far as there are enough.

    Args:
        scores: (query heads of the source, query heads of the target).
        own: Query heads of the source for each of its heads of keys.
        other: The target's.
    """
    rows, columns = scores.shape[0] // own, scores.shape[1] // other
    blocks = scores.reshape(rows, own, columns, other).transpose(2, 0, 3, 1)
    likeness = np.array([[_best_mean(block) for block in line] for line in blocks])
    return shared_assignment(likeness)


def match_queries(scores: Array, groups: Heads, own: int, other: int) -> Heads:
    """Match query heads within matched groups."""
    found = []
    for target in sorted({t for t, _ in groups}):
        sources = [s * own + i for t, s in groups if t == target for i in range(own)]
        targets = [target * other + i for i in range(other)]
        pairs = shared_assignment(scores[np.ix_(sources, targets)].T)
        found += [(targets[t], sources[s]) for t, s in pairs]
    return found


def rotary(source: int, target: int) -> Array:
    """Return the map within a head that keeps rotary pairs, (target, source).

    Pair f turns with the frequency θ^(−2f/head_dim): pairs of the same f / head_dim belong
    together.
    """
    own, other = source // 2, target // 2
    out = np.zeros((target, source))
    pairs = np.arange(other)
    from_pairs = pairs * own // other
    out[pairs, from_pairs] = 1.0
    out[pairs + other, from_pairs + own] = 1.0
    return out


def _cosines(source: tuple[Array, Array], target: tuple[Array, Array]) -> Array:
    inner = _inner(source, target)
    own = np.array([_inner(one, one)[0, 0] for one in _each(source)])
    other = np.array([_inner(one, one)[0, 0] for one in _each(target)])
    norms = np.sqrt(np.outer(own, other))
    return np.divide(inner, norms, out=np.zeros_like(inner), where=norms > 0.0)


def _each(pair: tuple[Array, Array]) -> list[tuple[Array, Array]]:
    queries, keys = pair
    group = len(queries) // len(keys)
    return [(queries[i : i + 1], keys[i // group][None]) for i in range(len(queries))]


def _inner(source: tuple[Array, Array], target: tuple[Array, Array]) -> Array:
    """Return the inner products of all head products, (query heads of one, of the other)."""
    first = _grams(source[0], target[0])
    second = _grams(source[1], target[1])
    second = np.repeat(second, first.shape[0] // second.shape[0], axis=0)
    second = np.repeat(second, first.shape[1] // second.shape[1], axis=1)
    return np.asarray(np.einsum("ijab,ijab->ij", first, second))


def _grams(own: Array, other: Array) -> Array:
    """Return A_i B_jᵀ of all heads, (heads, heads, head_dim, head_dim)."""
    (n, a, d), (m, b, _) = own.shape, other.shape
    # In single precision: it decides between heads far apart.
    left, right = (one.reshape(-1, d).astype(np.float32) for one in (own, other))
    grams = (left @ right.T).reshape(n, a, m, b).transpose(0, 2, 1, 3)
    return grams.astype(np.float64)


def _best_mean(block: Array) -> float:
    """Return the mean score of the best assignment within two groups."""
    block = block if block.shape[0] <= block.shape[1] else block.T
    return float(np.mean(block[np.arange(len(block)), assign(block)]))


def _values(pair: tuple[int, int], queries: Heads, source: Attention, target: Attention) -> Array:
    t, s = pair
    cross = target.v[t] @ source.v[s].T
    for own, other in queries:
        if (own // target.group, other // source.group) == pair:
            cross = cross + target.o[own] @ source.o[other].T
    u, _, vt = np.linalg.svd(cross, full_matrices=False)
    return np.asarray(u @ vt)


def _averaged(blocks: Mapping[tuple[int, int], Array], heads: int) -> HeadMap:
    counts = Counter(target for target, _ in blocks)
    return HeadMap(heads, {pair: block / counts[pair[0]] for pair, block in blocks.items()})


def _divided(blocks: Mapping[tuple[int, int], Array], heads: int) -> HeadMap:
    counts = Counter(source for _, source in blocks)
    return HeadMap(heads, {pair: block / counts[pair[1]] for pair, block in blocks.items()})


def _told(source: Attention, target: Attention) -> str:
    told = []
    shapes = [(len(one.q), len(one.k)) for one in (source, target)]
    if shapes[0] != shapes[1]:
        own, other = (f"{q}/{k}" for q, k in shapes)
        told.append(f"{own} heads onto {other}: averaged where they collapse, repeated where not")
    own, other = source.q.shape[1], target.q.shape[1]
    if own != other:
        told.append(f"head_dim {own} onto {other}: rotary pairs by frequency index, in proportion")
    return "; ".join(told)

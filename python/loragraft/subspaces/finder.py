"""Finds the subspaces of weights, one weight at a time, and keeps them for the next run."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from loragraft import native
from loragraft.errors import NonFiniteError
from loragraft.linalg import truncated_svd
from loragraft.subspaces.subspace import Subspace
from loragraft.subspaces.weight import content_digest, dense
from loragraft.wording import shown

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loragraft.architecture import LinearModule
    from loragraft.subspaces.cache import SubspaceCache
    from loragraft.subspaces.rank import SubspaceRank
    from loragraft.tensor_reader import TensorReader

#: Goes up whenever other numbers come out for the same weight.
_VERSION: Final = 1
#: Dimensions tried first where a share of the energy decides.
_FIRST: Final = 128


class SubspaceFinder:
    """Computes subspaces, or takes them from the cache.

    Attributes:
        rank: The rule for their dimension.
        computed: How many were computed.
    """

    def __init__(
        self,
        reader: TensorReader,
        cache: SubspaceCache,
        rank: SubspaceRank,
        *,
        power_iterations: int | None = None,
        seed: int = 0,
        threads: int | None = None,
    ) -> None:
        self.rank = rank
        self.computed = 0
        self._reader = reader
        self._cache = cache
        self._iterations = power_iterations
        self._seed = seed
        self._threads = threads

    def find(self, linear: LinearModule) -> Subspace:
        """Return the leading singular subspaces of a weight.

        Raises:
            NonFiniteError: NaN or Inf in the weight.
            FormatError: A file cannot be read.
        """
        (found,) = self._found([linear])
        return found

    def both(self, first: LinearModule, second: LinearModule) -> tuple[Subspace, Subspace]:
        """Return those of two weights, worked on side by side.

        A decomposition keeps one core busy for most of its time, two of them two.

        Raises:
            NonFiniteError: NaN or Inf in a weight.
            FormatError: A file cannot be read.
        """
        one, other = self._found([first, second])
        return one, other

    def _found(self, linears: list[LinearModule]) -> list[Subspace]:
        digests = [content_digest(self._reader, linear) for linear in linears]
        known = {digest: self._cache.load(self._key(digest)) for digest in digests}
        missing = {
            digest: self._finite(linear)
            for digest, linear in zip(digests, linears, strict=True)
            if known[digest] is None
        }
        workers = min(len(missing), native.resolve_threads(self._threads))
        if workers > 1:
            with ThreadPoolExecutor(workers) as pool:
                alone = partial(self._new, threads=1)
                computed = dict(pool.map(alone, missing.keys(), missing.values()))
        else:
            computed = dict(self._new(*one, threads=self._threads) for one in missing.items())
        for digest, subspace in computed.items():
            self._cache.store(self._key(digest), subspace)
        self.computed += len(computed)
        everything = {**known, **computed}
        found = [everything[digest] for digest in digests]
        return [subspace for subspace in found if subspace is not None]

    def _finite(self, linear: LinearModule) -> tuple[NDArray[np.float32], float]:
        """Return a weight and its norm."""
        weight = dense(self._reader, linear)
        return weight, _norm(weight, linear)

    def norm_alone(self, linear: LinearModule) -> Subspace:
        """Return subspaces of no dimension, which cost nothing, with the norm of a weight.

        Raises:
            NonFiniteError: NaN or Inf in the weight.
            FormatError: A file cannot be read.
        """
        norm = _norm(dense(self._reader, linear), linear)
        (m, n), empty = linear.shape, np.float32
        return Subspace(np.empty((m, 0), empty), np.empty(0, empty), np.empty((n, 0), empty), norm)

    def _new(
        self, digest: bytes, weight: tuple[NDArray[np.float32], float], *, threads: int | None
    ) -> tuple[bytes, Subspace]:
        return digest, self._computed(*weight, self._sketch_seed(digest), threads)

    def _sketch_seed(self, digest: bytes) -> int:
        """Return the seed of a weight's own sketch.

        Two subspaces that have not settled lean towards the sketch they started from. Were it the
        same for both, unrelated weights would seem alike.
        """
        return (self._seed + int.from_bytes(digest[:8], "little")) % 2**64

    def _key(self, digest: bytes) -> str:
        settings = (_VERSION, str(self.rank), self._iterations, self._seed, native.isa())
        return hashlib.sha256(repr(settings).encode() + digest).hexdigest()

    def _computed(
        self, weight: NDArray[np.float32], norm: float, seed: int, threads: int | None
    ) -> Subspace:
        most = min(weight.shape)
        if norm == 0.0:
            # Any subspace is as good as any other.
            return Subspace(
                np.eye(weight.shape[0], 1, dtype=np.float32),
                np.zeros(1, np.float32),
                np.eye(weight.shape[1], 1, dtype=np.float32),
                norm,
            )
        if self.rank.most:
            return self._svd(weight, min(self.rank.most, most), norm, seed, threads)
        rank = min(_FIRST, most)
        while True:
            found = self._svd(weight, rank, norm, seed, threads)
            held = np.cumsum(np.square(found.s, dtype=np.float64)) / norm**2
            # The sum of all is one but for rounding.
            enough = np.flatnonzero(held >= self.rank.energy * (1.0 - 1e-6))
            if enough.size or rank == most:
                return found.leading(int(enough[0]) + 1 if enough.size else most)
            rank = min(2 * rank, most)

    def _svd(
        self,
        weight: NDArray[np.float32],
        rank: int,
        norm: float,
        seed: int,
        threads: int | None,
    ) -> Subspace:
        svd = truncated_svd(
            weight,
            rank,
            power_iterations=self._iterations,
            seed=seed,
            threads=threads,
        )
        return Subspace(svd.U, svd.s, np.ascontiguousarray(svd.Vt.T), norm)


def _norm(weight: NDArray[np.float32], linear: LinearModule) -> float:
    norm = float(np.sqrt(_square_sum(weight)))
    if not np.isfinite(norm):
        entry = linear.matrices[0].entries[0]
        raise NonFiniteError(
            f"{shown(entry.path)}: tensor {entry.name} holds NaN or Inf: expected finite"
            " weights; fetch the checkpoint again"
        )
    return norm


def _square_sum(values: NDArray[np.float32]) -> float:
    """Return the sum of squares in float64, row by row: a wide copy of the whole is not made."""
    return float(sum(float(np.dot(row, row)) for row in map(np.float64, values)))

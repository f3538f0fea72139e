"""Finds the subspaces of weights, one weight at a time, and keeps them for the next run."""

from __future__ import annotations

import hashlib
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
        seed: int = 0,
        threads: int | None = None,
    ) -> None:
        self.rank = rank
        self.computed = 0
        self._reader = reader
        self._cache = cache
        self._seed = seed
        self._threads = threads

    def find(self, linear: LinearModule) -> Subspace:
        """Return the leading singular subspaces of a weight.

        Raises:
            NonFiniteError: NaN or Inf in the weight.
            FormatError: A file cannot be read.
        """
        key = ""
        if self._cache.directory is not None:
            key = self._key(linear)
            found = self._cache.load(key)
            if found is not None:
                return found
        weight = dense(self._reader, linear)
        subspace = self._computed(weight, _norm(weight, linear))
        self.computed += 1
        self._cache.store(key, subspace)
        return subspace

    def norm_alone(self, linear: LinearModule) -> Subspace:
        """Return subspaces of no dimension, which cost nothing, with the norm of a weight.

        Raises:
            NonFiniteError: NaN or Inf in the weight.
            FormatError: A file cannot be read.
        """
        norm = _norm(dense(self._reader, linear), linear)
        (m, n), empty = linear.shape, np.float32
        return Subspace(np.empty((m, 0), empty), np.empty(0, empty), np.empty((n, 0), empty), norm)

    def _key(self, linear: LinearModule) -> str:
        settings = (_VERSION, str(self.rank), self._seed, native.isa())
        digest = content_digest(self._reader, linear)
        return hashlib.sha256(repr(settings).encode() + digest).hexdigest()

    def _computed(self, weight: NDArray[np.float32], norm: float) -> Subspace:
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
            return self._svd(weight, min(self.rank.most, most), norm)
        rank = min(_FIRST, most)
        while True:
            found = self._svd(weight, rank, norm)
            held = np.cumsum(np.square(found.s, dtype=np.float64)) / norm**2
            # The sum of all is one but for rounding.
            enough = np.flatnonzero(held >= self.rank.energy * (1.0 - 1e-6))
            if enough.size or rank == most:
                return found.leading(int(enough[0]) + 1 if enough.size else most)
            rank = min(2 * rank, most)

    def _svd(self, weight: NDArray[np.float32], rank: int, norm: float) -> Subspace:
        svd = truncated_svd(weight, rank, seed=self._seed, threads=self._threads)
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

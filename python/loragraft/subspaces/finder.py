"""Finds the subspaces of weights, and keeps them for the next run."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Final

import numpy as np

from loragraft import native
from loragraft.errors import NonFiniteError
from loragraft.resource_limits import check_address_space
from loragraft.subspaces.ahead import Ahead
from loragraft.subspaces.subspace import Subspace
from loragraft.subspaces.weight import content_digest, not_finite, oriented
from loragraft.weights.matrices import MatrixFactory

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

    from loragraft.architecture import LinearModule
    from loragraft.subspaces.cache import SubspaceCache
    from loragraft.subspaces.rank import SubspaceRank
    from loragraft.tensor_reader import TensorReader

#: Goes up whenever other numbers come out for the same weight.
_VERSION: Final = 2
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
        self._threads = native.resolve_threads(threads)
        check_address_space(self._threads)
        self._matrices = MatrixFactory("auto")
        #: Guards what follows, the cache's count and the files that are open.
        self._lock = Lock()
        #: Whoever holds a digest's lock works on it: equal weights are worked on once.
        self._working: defaultdict[bytes, Lock] = defaultdict(Lock)
        # One weight keeps one core busy for most of its time.
        self._ahead = Ahead(partial(self._found, threads=1), self._threads)

    def expect(self, linears: Iterable[LinearModule]) -> None:
        """Announce what will be asked for, in this order: as many as there are threads at once.

        The results do not depend on it.
        """
        if self._threads > 1:
            self._ahead.announce(linears)

    def find(self, linear: LinearModule) -> Subspace:
        """Return the leading singular subspaces of a weight.

        Raises:
            NonFiniteError: NaN or Inf in the weight.
            FormatError: A file cannot be read.
        """
        if self._ahead.has_next(linear):
            return self._ahead.take()
        return self._found(linear, threads=self._threads)

    def both(self, first: LinearModule, second: LinearModule) -> tuple[Subspace, Subspace]:
        """Return those of two weights, worked on side by side.

        Raises:
            NonFiniteError: NaN or Inf in a weight.
            FormatError: A file cannot be read.
        """
        if not self._ahead.has_next(first):
            self.expect((first, second))
        return self.find(first), self.find(second)

    def norm_alone(self, linear: LinearModule) -> Subspace:
        """Return subspaces of no dimension, which cost nothing, with the norm of a weight.

        Raises:
            NonFiniteError: NaN or Inf in the weight.
            FormatError: A file cannot be read.
        """
        try:
            norm = native.frobenius_norm(self._matrix(linear), self._threads)
        except NonFiniteError as error:
            raise not_finite(self._reader, linear) from error
        (m, n), empty = linear.shape, np.float32
        return Subspace(np.empty((m, 0), empty), np.empty(0, empty), np.empty((n, 0), empty), norm)

    def close(self) -> None:
        """Wait until nothing is worked on any more."""
        self._ahead.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _found(self, linear: LinearModule, *, threads: int) -> Subspace:
        digest = content_digest(self._reader, linear)
        with self._lock:
            alone = self._working[digest]
        with alone:
            found = self._cache.load(self._key(digest))
            if found is None:
                found = self._computed(linear, self._sketch_seed(digest), threads)
                self._cache.store(self._key(digest), found)
                with self._lock:
                    self.computed += 1
        return found

    def _matrix(self, linear: LinearModule) -> native.StoredMatrix:
        with self._lock:
            return self._matrices.make(oriented(linear))

    def _sketch_seed(self, digest: bytes) -> int:
        """Return the seed of a weight's own sketch.

        Two subspaces that have not settled lean towards the sketch they started from. Were it the
        same for both, unrelated weights would seem alike.
        """
        return (self._seed + int.from_bytes(digest[:8], "little")) % 2**64

    def _key(self, digest: bytes) -> str:
        settings = (_VERSION, str(self.rank), self._iterations, self._seed, native.isa())
        return hashlib.sha256(repr(settings).encode() + digest).hexdigest()

    def _computed(self, linear: LinearModule, seed: int, threads: int) -> Subspace:
        matrix, most = self._matrix(linear), min(linear.shape)
        rank = min(self.rank.most or _FIRST, most)
        while True:
            try:
                found = Subspace(
                    *native.leading_subspaces(matrix, rank, self._iterations, seed, threads)
                )
            except NonFiniteError as error:
                raise not_finite(self._reader, linear) from error
            if found.norm == 0.0:
                return _of_zero(linear.shape)
            if self.rank.most:
                return found
            held = np.cumsum(np.square(found.s, dtype=np.float64)) / found.norm**2
            # The sum of all is one but for rounding.
            enough = np.flatnonzero(held >= self.rank.energy * (1.0 - 1e-6))
            if enough.size or rank == most:
                return found.leading(int(enough[0]) + 1 if enough.size else most)
            rank = min(2 * rank, most)


def _of_zero(shape: tuple[int, int]) -> Subspace:
    """Return subspaces of a weight that is zero: any is as good as any other."""
    left, right = (np.eye(length, 1, dtype=np.float32) for length in shape)
    return Subspace(left, np.zeros(1, np.float32), right, 0.0)

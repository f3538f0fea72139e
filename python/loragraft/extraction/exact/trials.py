"""Searches inside the rounding cells, run by the native kernels and remembered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from loragraft import native
from loragraft.dtypes import to_float32
from loragraft.extraction.exact.cells import format_of
from loragraft.extraction.exact.outcome import Found, ModuleRecovery, Status
from loragraft.extraction.factors import flipped, peft_shape
from loragraft.extraction.journal import Searched, Trial
from loragraft.extraction.options import FACTOR_DTYPES
from loragraft.extraction.work import results
from loragraft.number_formats import DTYPES
from loragraft.weights.matrices import MatrixFactory

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from loragraft.extraction.computation import Progress
    from loragraft.extraction.factors import FactorStore
    from loragraft.extraction.findings import Findings
    from loragraft.extraction.plan import ExtractionPlan
    from loragraft.extraction.unfinished import Unfinished

#: Evaluations of a matrix at most; hopeless searches end long before.
_ROUNDS: Final = 1000
#: Factors with more than this share of the weights outside are not kept.
_HOPELESS: Final = 0.2
#: Bytes of starting points that are in memory together.
_TOGETHER: Final = 64 << 20


class Trials:
    """Runs searches, each once, and tells what they gave."""

    def __init__(
        self,
        plan: ExtractionPlan,
        findings: Findings,
        store: FactorStore,
        progress: Progress | None = None,
        unfinished: Unfinished | None = None,
    ) -> None:
        """Take what searches need.

        Args:
            plan: What is to be done.
            findings: What the factorisation found.
            store: Holds the factors that searches start from, and takes those found.
            progress: Told how far a set of searches is.
            unfinished: Searches of an earlier run; takes those of this one.
        """
        self._plan, self._findings, self._store = plan, findings, store
        self._progress, self._unfinished = progress, unfinished
        self._matrices = MatrixFactory(plan.options.io)
        self._sizes: dict[int, int] = {}
        self._done: dict[tuple[Trial, int], Searched] = {}
        for one in unfinished.searched if unfinished else ():
            self._done[one.trial, one.matrix] = one

    def run(self, trials: Iterable[Trial]) -> None:
        """Make sure that searches have been made.

        Raises:
            LoragraftError: A file cannot be read, or NaN or Inf takes part.
        """
        wanted = [
            (trial, matrix)
            for trial in trials
            for matrix, found in enumerate(self._findings.of_module(trial.number))
            if found.rank and (trial, matrix) not in self._done
        ]
        total = sum(self._nbytes(*place) for place in wanted)
        done = 0
        for group in self._groups(wanted):
            for place, result in self._search(group):
                self._take(*place, result)
                done += self._nbytes(*place)
                if self._progress is not None:
                    self._progress("exact", done, total)

    def outcome(self, trial: Trial) -> ModuleRecovery:
        """Return what a search that was made gave for the module."""
        module = self._plan.modules[trial.number]
        size = module.linear.shape[0] * module.linear.shape[1]
        matrices = range(len(module.unit.base))
        searched = [self._done[trial, i] for i in matrices if (trial, i) in self._done]
        found = [one.found for one in searched]
        equal = len(matrices) - len(searched)
        return ModuleRecovery(
            status=Status.NEAR,
            rank=max(one.rank for one in found),
            slack=trial.slack,
            weights=size * len(matrices),
            exact=sum(one.exact for one in found) + size * equal,
            outside=sum(one.outside for one in found),
            changed=sum(one.changed for one in found),
            freedom=sum(one.rank * (sum(module.linear.shape) - one.rank) for one in found),
            rounds=sum(one.rounds for one in found),
            residual_square=sum(one.residual_square for one in found),
            seconds=sum(one.seconds for one in found),
            factors={one.matrix: one.factors for one in searched if one.factors is not None},
        ).judged(complete=all(one.factors is not None for one in searched))

    def _nbytes(self, trial: Trial, _matrix: int) -> int:
        number = trial.number
        if number not in self._sizes:
            unit = self._plan.modules[number].unit
            self._sizes[number] = unit.nbytes // len(unit.base)
        return self._sizes[number]

    def _groups(self, wanted: list[tuple[Trial, int]]) -> Iterator[list[tuple[Trial, int]]]:
        """Yield searches whose starting points take little memory together."""
        group: list[tuple[Trial, int]] = []
        size = 0
        for trial, matrix in wanted:
            group.append((trial, matrix))
            size += 4 * trial.rank * sum(self._plan.modules[trial.number].linear.shape)
            if size >= _TOGETHER:
                yield group
                group, size = [], 0
        if group:
            yield group

    def _search(
        self, group: list[tuple[Trial, int]]
    ) -> Iterator[tuple[tuple[Trial, int], native.ModuleResult]]:
        options = self._plan.options
        batch = native.Batch(
            tasks=[self._task(trial, matrix) for trial, matrix in group],
            oversampling=0,
            power_iterations=None,
            dtype=FACTOR_DTYPES[options.exact_dtype],
            threads=native.resolve_threads(options.threads),
        )
        try:
            for index, result in results(batch):
                yield group[index], result
        finally:
            batch.close()

    def _task(self, trial: Trial, matrix: int) -> native.ModuleTask:
        unit = self._plan.modules[trial.number].unit
        left, right = self._start(trial, matrix)
        dtype = format_of(unit.tuned[matrix])
        assert dtype is not None
        return native.ModuleTask.recovery(
            unit.label(matrix),
            self._matrices.make(unit.base[matrix]),
            self._matrices.make(unit.tuned[matrix]),
            right,
            left,
            dtype,
            scaling=self._plan.options.scaling,
            slack=trial.slack,
            rounds=_ROUNDS,
        )

    def _start(self, trial: Trial, matrix: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the leading triplets as factors of the matrix as it is stored."""
        module = self._plan.modules[trial.number]
        out, into = peft_shape(module)
        place, raw_a, raw_b = self._store.read_matrix(trial.number, matrix)
        storage = DTYPES[place.dtype].storage
        stored_a = np.frombuffer(raw_a, storage).reshape(place.rank, into)
        stored_b = np.frombuffer(raw_b, storage).reshape(out, place.rank)
        a = to_float32(stored_a[: trial.rank], place.dtype)
        b = to_float32(stored_b[:, : trial.rank], place.dtype)
        left, right = (a.T, b.T) if flipped(module) else (b, a)
        return np.float32(self._plan.options.scaling) * left, right

    def _take(self, trial: Trial, matrix: int, result: native.ModuleResult) -> None:
        recovery = result.recovery
        assert recovery is not None
        found = Found(
            result.rank,
            result.dtype,
            recovery.end,
            recovery.outside,
            recovery.exact,
            recovery.changed,
            recovery.rounds,
            result.residual_square,
            result.seconds,
        )
        unit = self._plan.modules[trial.number].unit
        weights = unit.parameters // len(unit.base)
        # What failed is not written, whatever becomes of the other matrices.
        keeps = found.outside <= _HOPELESS * weights
        factors = self._store.keep(self._plan.modules[trial.number], result) if keeps else None
        searched = Searched(trial, matrix, found, factors)
        self._done[trial, matrix] = searched
        if self._unfinished is not None:
            self._unfinished.journal.record_search(searched)

"""Runs a plan on the native kernels and hands out what was found, matrix by matrix."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

from loragraft import native
from loragraft.errors import LoragraftError
from loragraft.extraction.options import FACTOR_DTYPES
from loragraft.weights.matrices import MatrixFactory
from loragraft.wording import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from loragraft.extraction.journal import Done
    from loragraft.extraction.plan import ExtractionPlan

# How often control returns to Python while the kernels work, in seconds: Ctrl-C is seen then.
_POLL = 0.1


class Finished(NamedTuple):
    """One matrix that the kernels are done with.

    Attributes:
        unit: Which of the plan's units.
        matrix: Which of its matrices.
        result: What was found.
    """

    unit: int
    matrix: int
    result: native.ModuleResult


class Work:
    """The units of a plan as tasks of the native batch, less what is done already.

    Iterating yields results in the order in which they finish. Leaving the context stops the
    kernels and waits for them.
    """

    def __init__(self, plan: ExtractionPlan, done: Iterable[Done] = ()) -> None:
        self._plan = plan
        finished = {(one.unit, one.matrix) for one in done}
        self._matrices = MatrixFactory(plan.options.io)
        options = plan.options
        self._places = [
            (number, matrix)
            for number, unit in enumerate(plan.units)
            for matrix in range(len(unit.base))
            if (number, matrix) not in finished
        ]
        self._batch = native.Batch(
            tasks=list(self._tasks()),
            oversampling=options.oversampling,
            power_iterations=options.power_iterations,
            dtype=FACTOR_DTYPES[options.dtype],
            threads=native.resolve_threads(options.threads),
            nested=options.nested,
        )

    def __iter__(self) -> Iterator[Finished]:
        for index, result in results(self._batch):
            yield Finished(*self._places[index], result)

    def __enter__(self) -> Work:
        return self

    def __exit__(self, *_: object) -> None:
        self._batch.close()

    def _tasks(self) -> Iterator[native.ModuleTask]:
        options, modules, units = self._plan.options, self._plan.modules, self._plan.units
        for number, matrix in self._places:
            unit = units[number]
            label = unit.label(matrix)
            yield native.ModuleTask(
                name=label,
                base=self._matrices.make(unit.base[matrix]),
                tuned=self._matrices.make(unit.tuned[matrix]),
                rank=modules[number].rank if number < len(modules) else 0,
                key=sketch_key(options.seed, label),
                scaling=options.scaling,
            )


def results(batch: native.Batch) -> Iterator[tuple[int, native.ModuleResult]]:
    """Yield which task of a batch is done, and what was found, as they finish.

    Raises:
        LoragraftError: A task failed; nothing comes after it.
    """
    while not batch.exhausted:
        try:
            finished = batch.next(_POLL)
        except LoragraftError as error:
            # The kernels name files as they are called, line breaks and all.
            raise type(error)(shown(str(error))) from None
        if finished is not None:
            yield finished


def sketch_key(seed: int, name: str) -> int:
    """Return the 64-bit key of a tensor's random sketch: of the seed and the name, nothing else."""
    digest = hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")

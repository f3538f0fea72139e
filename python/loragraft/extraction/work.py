"""Runs a plan on the native kernels and hands out what was found, module by module."""

from __future__ import annotations

import hashlib
import math
import os
from typing import TYPE_CHECKING

from loragraft import native
from loragraft.errors import LoragraftError
from loragraft.extraction.options import FACTOR_DTYPES
from loragraft.extraction.ranks import Spectrum
from loragraft.input_file import InputFile, changed
from loragraft.wording import shown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from loragraft.alignment import TensorPair
    from loragraft.checkpoint import TensorEntry
    from loragraft.extraction.plan import ExtractionPlan, ModulePlan

# How often control returns to Python while the kernels work, in seconds: Ctrl-C is seen then.
_POLL = 0.1


class Work:
    """The pairs of a plan as tasks of the native batch.

    Iterating yields (pair, result) in the order in which they finish. Leaving the context stops
    the kernels and waits for them.
    """

    def __init__(self, plan: ExtractionPlan) -> None:
        self._plan = plan
        self._files: dict[Path, native.MappedFile] = {}
        self._modules = plan.modules
        self._pairs = [module.pair for module in plan.modules]
        self._pairs += [pair for pair, _ in plan.measured]
        options = plan.options
        rule = options.rank
        self._batch = native.Batch(
            tasks=[self._task(module.pair, module) for module in plan.modules]
            + [self._task(pair, None) for pair, _ in plan.measured],
            oversampling=options.oversampling,
            power_iterations=options.power_iterations,
            dtype=FACTOR_DTYPES[options.dtype],
            choose_rank=None if rule.fixed else self._choose_rank,
            threads=native.resolve_threads(options.threads),
        )

    def __iter__(self) -> Iterator[tuple[TensorPair, native.ModuleResult]]:
        while not self._batch.exhausted:
            try:
                finished = self._batch.next(_POLL)
            except LoragraftError as error:
                # The kernels name files as they are called, line breaks and all.
                raise type(error)(shown(str(error))) from None
            if finished is not None:
                index, result = finished
                yield self._pairs[index], result

    def __enter__(self) -> Work:
        return self

    def __exit__(self, *_: object) -> None:
        self._batch.close()

    def _choose_rank(
        self, index: int, values: list[float], delta_square: float, rounding_square: float
    ) -> int:
        return self._plan.options.rank.choose(
            Spectrum(tuple(values), delta_square, rounding_square)
        )

    def _task(self, pair: TensorPair, module: ModulePlan | None) -> native.ModuleTask:
        assert pair.base is not None
        assert pair.tuned is not None
        options = self._plan.options
        return native.ModuleTask(
            name=pair.name,
            base=self._matrix(pair.base),
            tuned=self._matrix(pair.tuned),
            rank=0 if module is None else module.rank,
            key=sketch_key(options.seed, pair.name),
            scaling=options.scaling,
        )

    def _matrix(self, entry: TensorEntry) -> native.StoredMatrix:
        file = self._files.get(entry.path)
        if file is None:
            file = native.MappedFile(os.fsencode(entry.path), self._plan.options.io)
            _check_identity(entry)
            self._files[entry.path] = file
        columns = entry.shape[-1] if entry.shape else 1
        return native.StoredMatrix(
            file, entry.offset, entry.dtype, math.prod(entry.shape) // columns, columns
        )


def _check_identity(entry: TensorEntry) -> None:
    """Refuse a file that is no longer the one whose header was read: its offsets may be others."""
    with InputFile(entry.path) as file:
        if entry.identity is not None and entry.identity != file.identity:
            raise changed(entry.path)


def sketch_key(seed: int, name: str) -> int:
    """Return the 64-bit key of a tensor's random sketch: of the seed and the name, nothing else."""
    digest = hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")

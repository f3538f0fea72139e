"""Accuracy: the error over the smallest possible one, on prescribed spectra."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

import quality
from contenders import LORAGRAFT, RANK, SVD_LOWRANK
from markdown import Bar, table
from spectra import CHANGES, DTYPES, spectra_pair, tensor_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench import Bench

_OPTIMAL: Final = 1.001
#: An exact low rank leaves an optimum of the size of float32's own rounding.
_FLOAT32: Final = 2.0**-22
#: Below, the optimum is nothing but that rounding, and a ratio to it says little.
_TINY: Final = 1e-5


@dataclass(frozen=True, slots=True)
class Case:
    """One change, extracted three times; errors are relative to ‖ΔW‖.

    Attributes:
        change: What was prescribed, and the shape.
        dtype: Of the two checkpoints.
        optimum: The smallest possible error.
        exact: Error of loragraft's factors in fp32.
        written: Error of loragraft's factors by default.
        rounding: ‖BA − B'A'‖ of these two: what the written dtype costs.
        baseline: Error of svd_lowrank's factors.
    """

    change: str
    dtype: str
    optimum: float
    exact: float
    written: float
    rounding: float
    baseline: float

    @property
    def met(self) -> bool:
        """Whether both adapters are as good as required."""
        best = _OPTIMAL * self.optimum
        by_rounding = np.hypot(best, self.rounding)
        return bool(self.exact <= best + _FLOAT32 and self.written <= by_rounding + _FLOAT32)


@dataclass(frozen=True, slots=True)
class Accuracy:
    """All cases."""

    cases: list[Case]

    def table(self) -> str:
        """Return the cases in Markdown."""
        head = [
            f"Change, rank {RANK}",
            "stored as",
            "optimum",
            "loragraft, fp32 factors / optimum",
            "loragraft, default / optimum",
            "rounding of the default",
            "svd_lowrank / optimum",
            "met",
        ]
        return table(head, [self._row(case) for case in self.cases])

    def bars(self) -> Iterator[Bar]:
        """Compare with what is required."""
        missed = [f"{case.change} ({case.dtype})" for case in self.cases if not case.met]
        worst = max(case.exact / case.optimum for case in self.cases if case.optimum > _TINY)
        words = f"all {len(self.cases)} matrices, at most {worst:.5f} in fp32"
        required = f"at most {_OPTIMAL}, plus the rounding of the written dtype"
        measured = f"missed: {', '.join(missed)}" if missed else words
        yield Bar("Error / optimum, prescribed spectra", required, measured, not missed)

    @staticmethod
    def _row(case: Case) -> list[str]:
        ratios = [case.exact / case.optimum, case.written / case.optimum]
        return [
            case.change,
            case.dtype.lower(),
            f"{case.optimum:.3e}",
            *(f"{ratio:.5f}" for ratio in ratios),
            f"{case.rounding:.1e}",
            f"{case.baseline / case.optimum:.5f}",
            "yes" if case.met else "**no**",
        ]


def measure_accuracy(bench: Bench) -> Accuracy:
    """Extract every matrix, from fp32 and from bf16 checkpoints."""
    cases = []
    for dtype in DTYPES:
        bench.say(f"accuracy: {len(CHANGES)} matrices stored as {dtype.lower()}")
        pair = spectra_pair(bench.pairs, dtype)
        names = ("exact", "written", "baseline")
        adapters = {name: bench.adapter(f"{pair.name} {name}") for name in names}
        LORAGRAFT.extract(pair, adapters["exact"], "--dtype", "fp32")
        LORAGRAFT.extract(pair, adapters["written"])
        SVD_LOWRANK.extract(pair, adapters["baseline"])
        found = quality.measure(pair, adapters)
        for change in CHANGES:
            tensor = tensor_name(change)
            rounding = quality.distance(adapters["exact"], adapters["written"], tensor)
            norm = np.sqrt(found["exact"][tensor].delta_square)
            errors = {name: found[name][tensor].error for name in names}
            best = quality.optimum(pair, tensor, RANK)
            cases.append(Case(change.title, dtype, best, rounding=float(rounding / norm), **errors))
    return Accuracy(cases)

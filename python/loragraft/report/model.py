"""The report as data: frozen dataclasses with the field names of schema ``loragraft.report/1``."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA: Final = "loragraft.report/1"


class Outcome(StrEnum):
    """What happened to a tensor; every tensor of both checkpoints has exactly one."""

    ADAPTED = "adapted"
    UNCHANGED = "unchanged"
    SAVED_WHOLE = "saved_whole"
    LEFT_OUT = "left_out"


@dataclass(frozen=True, slots=True)
class TensorReport:
    """One tensor of either checkpoint.

    Attributes:
        name: As in the checkpoint.
        shape: As in the base checkpoint, or the tuned one where the base lacks it.
        dtype_base: Safetensors code, or None where the base lacks the tensor.
        dtype_tuned: Safetensors code, or None where the tuned side lacks it.
        outcome: What happened to it.
        why: One phrase for the outcome; empty when adapted.
        relative_change: ‖W_tuned − W_base‖ / ‖W_base‖ (Frobenius), None where not comparable.
    """

    name: str
    shape: tuple[int, ...]
    dtype_base: str | None
    dtype_tuned: str | None
    outcome: Outcome
    why: str = ""
    relative_change: float | None = None


@dataclass(frozen=True, slots=True)
class ModuleReport:
    """One adapted module; every norm is Frobenius, every figure measured on the tensors.

    Attributes:
        name: Module path without ``.weight``, as PEFT names it.
        kind: Last component of the path, such as ``q_proj``.
        layer: Block number, None outside the blocks.
        shape: ``(out, in)``; of one expert where there are several.
        rank: Rank written, of each expert where there are several.
        alpha: Alpha that applies to this module; its scaling is ``alpha / rank``.
        delta_norm: ‖ΔW‖.
        weight_norm: ‖W_base‖.
        energy: Share of ‖ΔW‖² kept: 1 − relative_error².
        relative_error: ‖ΔW − scaling·B·A‖ / ‖ΔW‖ with the factors as written to disk.
        optimal_error: Error of the best rank-``rank`` approximation, as the factorisation found
            it before the cast; exact where the matrix was small enough for a full SVD.
        rounding_floor: Norm of the rounding that storing W_tuned implies, over ‖ΔW‖, when every
            weight is off by a uniform share of its unit in the last place.
        singular_values: The leading ones, at least ``rank`` of them.
        bit_exact: Share of weights that W_base + scaling·B·A, rounded to the tuned dtype,
            reproduces bit for bit; None where it was not measured.
        dtype: Safetensors code of the written factors.
        seconds: Worker time spent on the module.
        experts: How many experts the module is of, 0 for a layer of its own. All figures are of
            them together: norms of those that changed, as one long vector; singular values are
            the roots of their summed squares, place by place.
        recovery: What exact recovery found: ``status`` (``exact``, ``near`` or ``plain``), ``why``
            or the figures (docs/exact.md); None where it was not asked for.
    """

    name: str
    kind: str
    layer: int | None
    shape: tuple[int, int]
    rank: int
    alpha: float
    delta_norm: float
    weight_norm: float
    energy: float
    relative_error: float
    optimal_error: float | None
    rounding_floor: float | None
    singular_values: tuple[float, ...] = ()
    bit_exact: float | None = None
    dtype: str = ""
    seconds: float = 0.0
    experts: int = 0
    recovery: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """The whole run in a few figures.

    Attributes:
        verdict: One sentence.
        counts: Number of tensors by outcome.
        bytes_read: Bytes of tensor data compared, both sides.
        bytes_written: Size of the adapter's tensor file.
        seconds: Wall time of the run.
        energy: Share of the adapted modules' summed ‖ΔW‖² that the adapter keeps.
        error: √(1 − energy), computed from the residuals themselves.
        bit_exact: Share of the adapted weights reproduced bit for bit, None if not measured.
        warnings: What a reader should know before trusting the result.
    """

    verdict: str
    counts: Mapping[str, int]
    bytes_read: int
    bytes_written: int
    seconds: float
    energy: float
    error: float
    bit_exact: float | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """Everything a run has to say; `to_json` gives the published schema."""

    command: str
    inputs: Mapping[str, Any]
    summary: Summary
    tensors: tuple[TensorReport, ...] = ()
    modules: tuple[ModuleReport, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self, *, singular_values: bool = True) -> dict[str, Any]:
        """Return the report as plain data, ready for ``json.dumps``.

        Args:
            singular_values: Leave them out with False, as ``--json`` on stdout does.
        """
        modules = [_plain(module) for module in self.modules]
        if not singular_values:
            for module in modules:
                del module["singular_values"]
        return {
            "schema": SCHEMA,
            "command": self.command,
            "inputs": dict(self.inputs),
            "summary": _plain(self.summary),
            "tensors": [_plain(tensor) for tensor in self.tensors],
            "modules": modules,
            **self.extra,
        }


def _plain(row: TensorReport | ModuleReport | Summary) -> dict[str, Any]:
    """Return the fields by name; ``asdict`` would copy what is plain already, at a price."""
    return {field.name: getattr(row, field.name) for field in fields(row)}


def count_outcomes(tensors: tuple[TensorReport, ...]) -> dict[str, int]:
    """Count tensors by outcome, every outcome present."""
    counts = {outcome.value: 0 for outcome in Outcome}
    for tensor in tensors:
        counts[tensor.outcome.value] += 1
    return counts


def total_energy(modules: tuple[ModuleReport, ...]) -> tuple[float, float]:
    """Return (energy kept, relative error) of all modules together, weighted by ‖ΔW‖².

    Both are 0 error / 1 energy when there is nothing to weigh.
    """
    total = math.fsum(module.delta_norm**2 for module in modules)
    if total == 0.0:
        return 1.0, 0.0
    residual = math.fsum((module.relative_error * module.delta_norm) ** 2 for module in modules)
    return 1.0 - residual / total, math.sqrt(residual / total)

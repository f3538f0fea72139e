"""One adapted module, measured: its sums, its report, its exact optimum."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from loragraft.adapter.delta import load_delta, slabs
from loragraft.dtypes import to_float32
from loragraft.errors import NonFiniteError
from loragraft.report.model import ModuleReport, Outcome, TensorReport
from loragraft.verification.spectrum import optimal_error, singular_values
from loragraft.verification.tally import tally_module, total

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loragraft.adapter.delta import Delta
    from loragraft.adapter.placement import Placement
    from loragraft.checkpoint import TensorEntry
    from loragraft.tensor_reader import TensorReader
    from loragraft.verification.tally import Tally


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was found about an adapted module.

    Attributes:
        module: Its figures.
        tensor: Its tensor's line in the report.
        tally: The sums that both came from.
    """

    module: ModuleReport
    tensor: TensorReport
    tally: Tally


def measure(
    reader: TensorReader,
    base: TensorEntry,
    tuned: TensorEntry,
    placement: Placement,
    *,
    optimum: bool,
) -> Measurement:
    """Measure what an adapter module reproduces of its weight's change.

    Args:
        reader: Reads the checkpoints and the adapter.
        base: The weight in the base checkpoint.
        tuned: The weight in the tuned one, of the same shape.
        placement: The module and its linear layer.
        optimum: Also compute the singular values of the change, and from them the best error
            that the module's rank allows.

    Raises:
        NonFiniteError: NaN or Inf in a factor or a weight.
    """
    started = time.perf_counter()
    tally = _tally(reader, base, tuned, load_delta(reader, placement))
    if not tally.finite:
        raise NonFiniteError(
            f"tensor {base.name} holds NaN or Inf in {base.path.name} or {tuned.path.name}, or"
            " scaling·B·A overflows: expected finite values; repair that checkpoint or adapter"
        )
    spectrum = _spectrum(reader, base, tuned) if optimum else None
    module = _module_report(placement, tally, spectrum, time.perf_counter() - started)
    change = math.sqrt(tally.delta / tally.weight) if tally.weight > 0.0 else None
    tensor = TensorReport(
        name=base.name,
        shape=base.shape,
        dtype_base=base.dtype,
        dtype_tuned=tuned.dtype,
        outcome=Outcome.ADAPTED,
        relative_change=change,
    )
    return Measurement(module, tensor, tally)


def relative_error(tally: Tally) -> float:
    """Return ‖ΔW − scaling·B·A‖ / ‖ΔW‖; without any change 0 if the adapter makes none, else 1."""
    if tally.delta > 0.0:
        return math.sqrt(tally.residual / tally.delta)
    return 0.0 if tally.residual == 0.0 else 1.0


def _module_report(
    placement: Placement, tally: Tally, spectrum: NDArray[np.float64] | None, seconds: float
) -> ModuleReport:
    module, linear = placement.module, placement.linear
    error, norm = relative_error(tally), math.sqrt(tally.delta)
    leading = () if spectrum is None else tuple(spectrum[: 2 * module.rank].tolist())
    return ModuleReport(
        name=module.name,
        kind=linear.kind,
        layer=linear.layer,
        shape=linear.shape,
        rank=module.rank,
        alpha=module.alpha,
        delta_norm=norm,
        weight_norm=math.sqrt(tally.weight),
        energy=1.0 - error**2,
        relative_error=error,
        optimal_error=None if spectrum is None else optimal_error(spectrum, module.rank),
        rounding_floor=math.sqrt(tally.rounding) / norm if norm > 0.0 else None,
        singular_values=leading,
        bit_exact=tally.exact / max(1, math.prod(linear.shape)),
        dtype=module.lora_A.dtype,
        seconds=seconds,
    )


def _tally(reader: TensorReader, base: TensorEntry, tuned: TensorEntry, delta: Delta) -> Tally:
    return total(
        tally_module(
            reader.rows(base, start, stop),
            reader.raw_rows(tuned, start, stop),
            tuned.dtype,
            delta.rows(start, stop),
        )
        for start, stop in slabs(*delta.shape)
    )


def _spectrum(reader: TensorReader, base: TensorEntry, tuned: TensorEntry) -> NDArray[np.float64]:
    def rows(start: int, stop: int) -> NDArray[np.float64]:
        stored = reader.raw_rows(tuned, start, stop)
        change = to_float32(stored, tuned.dtype).astype(np.float64)
        change -= reader.rows(base, start, stop)
        return change

    return singular_values(rows, (base.shape[0], base.shape[1]))

"""One module, measured: its sums, its report, its exact optimum."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from loragraft.adapter.delta import slabs
from loragraft.report.model import ModuleReport
from loragraft.verification.sides import sides_of
from loragraft.verification.spectrum import optimal_error, pooled, singular_values
from loragraft.verification.tally import tally_change, tally_module, total
from loragraft.weights.codes import widen

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from loragraft.adapter.delta import Delta, DeltaReader
    from loragraft.adapter.placement import Placement
    from loragraft.alignment import ModulePair
    from loragraft.tensor_reader import TensorReader
    from loragraft.verification.sides import Sides
    from loragraft.verification.tally import Tally

    #: Tensor -> sums over what a module has of it.
    Sums = dict[str, list[Tally]]


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was found about an adapted module.

    Attributes:
        module: Its figures.
        tally: The sums that they came from, of all experts together.
        parameters: Number of weights whose bits were compared; 0 where they are stored as codes.
        tensors: Sums by tensor.
    """

    module: ModuleReport
    tally: Tally
    parameters: int
    tensors: Sums


def measure(
    reader: TensorReader,
    deltas: DeltaReader,
    pair: ModulePair,
    placement: Placement,
    *,
    optimum: bool,
) -> Measurement:
    """Measure what an adapter module reproduces of the change of its weight, or its experts'.

    Args:
        reader: Reads the checkpoints.
        deltas: Reads the adapter.
        pair: The module on both sides.
        placement: The module of the adapter on BASE.
        optimum: Also compute the singular values of the change, and from them the best error
            that the module's rank allows.

    Raises:
        NonFiniteError: NaN or Inf in a factor or a weight.
    """
    started = time.perf_counter()
    tallies: list[Tally] = []
    spectra: list[NDArray[np.float64]] = []
    sums: Sums = {}
    parameters = 0
    transposed, matrices = sides_of(pair)
    for expert, sides in enumerate(matrices):
        delta = deltas.delta(placement, expert, transposed=transposed)
        tallies.append(_tally(reader, sides, delta, sums))
        parameters += math.prod(sides.shape) if sides.dtype else 0
        if optimum:
            spectra.append(_spectrum(reader, sides))
    tally = _together(tallies)
    spectrum = pooled(spectra) if optimum else None
    seconds = time.perf_counter() - started
    module = _module_report(placement, tally, parameters, spectrum, seconds)
    return Measurement(module, tally, parameters, sums)


def sum_up(reader: TensorReader, pair: ModulePair) -> Sums:
    """Return the sums over the tensors of a module that is not adapted.

    Raises:
        NonFiniteError: NaN or Inf in a weight.
    """
    sums: Sums = {}
    for sides in sides_of(pair)[1]:
        whole = []
        for start, stop in slabs(*sides.shape):
            base, stored = sides.read(reader, start, stop)
            tuned = widen(stored, sides.dtype or "F32")
            for piece, slots in sides.parts(start, stop):
                tally = tally_change(base[slots], tuned[slots])
                sides.check(reader, piece, tally)
                whole.append(tally)
                _enter(sums, (entry.name for entry in piece.source.entries), tally)
        _enter(sums, sides.names[1], total(whole))
    return sums


def relative_error(tally: Tally) -> float:
    """Return ‖ΔW − scaling·B·A‖ / ‖ΔW‖; without any change 0 if the adapter makes none, else 1."""
    if tally.delta > 0.0:
        return math.sqrt(tally.residual / tally.delta)
    return 0.0 if tally.residual == 0.0 else 1.0


def _module_report(
    placement: Placement,
    tally: Tally,
    parameters: int,
    spectrum: NDArray[np.float64] | None,
    seconds: float,
) -> ModuleReport:
    module, linear = placement.module, placement.linear
    error, norm = relative_error(tally), math.sqrt(tally.delta)
    leading = () if spectrum is None else tuple(spectrum[: 2 * module.rank].tolist())
    # Neither the rounding of W_tuned nor its bits mean anything where it is stored as codes.
    plain = parameters > 0
    return ModuleReport(
        name=module.name,
        kind=linear.kind,
        layer=linear.layer,
        shape=linear.shape,
        experts=linear.experts,
        rank=module.rank,
        alpha=module.alpha,
        delta_norm=norm,
        weight_norm=math.sqrt(tally.weight),
        energy=1.0 - error**2,
        relative_error=error,
        optimal_error=None if spectrum is None else optimal_error(spectrum, module.rank),
        rounding_floor=math.sqrt(tally.rounding) / norm if plain and norm > 0.0 else None,
        singular_values=leading,
        bit_exact=tally.exact / parameters if plain else None,
        dtype=module.lora_A.dtype,
        seconds=seconds,
    )


def _tally(reader: TensorReader, sides: Sides, delta: Delta, sums: Sums) -> Tally:
    """Sum one matrix up, and enter what belongs to each of its tensors."""
    whole = []
    for start, stop in slabs(*sides.shape):
        base, tuned = sides.read(reader, start, stop)
        change = delta.rows(start, stop)
        for piece, slots in sides.parts(start, stop):
            tally = tally_module(base[slots], tuned[slots], sides.dtype, change[slots])
            sides.check(reader, piece, tally)
            whole.append(tally)
            _enter(sums, (entry.name for entry in piece.source.entries), tally)
    tally = total(whole)
    # Of a tensor that only TUNED has it is not known which rows are its own.
    _enter(sums, sides.names[1], tally)
    return tally


def _enter(sums: Sums, names: Iterable[str], tally: Tally) -> None:
    for name in names:
        sums.setdefault(name, []).append(tally)


def _together(tallies: Sequence[Tally]) -> Tally:
    """Add the sums of experts up; the norms are of those that changed, if any did."""
    changed = [tally for tally in tallies if tally.delta > 0.0] or tallies
    of_changed = total(changed)
    return replace(total(tallies), weight=of_changed.weight, rounding=of_changed.rounding)


def _spectrum(reader: TensorReader, sides: Sides) -> NDArray[np.float64]:
    def rows(start: int, stop: int) -> NDArray[np.float64]:
        base, stored = sides.read(reader, start, stop)
        change = widen(stored, sides.dtype or "F32").astype(np.float64)
        change -= base
        return change

    return singular_values(rows, sides.shape)

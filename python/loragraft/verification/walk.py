"""Every tensor of both checkpoints, gone through once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loragraft.adapter.delta import DeltaReader
from loragraft.alignment import TensorPair
from loragraft.tensor_reader import TensorReader
from loragraft.verification.comparison import compare_pair, same_bits, unchanged
from loragraft.verification.measurement import measure, sum_up
from loragraft.verification.tensor_rows import TensorRows
from loragraft.verification.units import same_tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from loragraft.alignment import ModulePair
    from loragraft.checkpoint import Checkpoint
    from loragraft.report.model import TensorReport
    from loragraft.verification.measurement import Measurement
    from loragraft.verification.units import Unit

    #: Told what was just finished, bytes done and bytes in all.
    Progress = Callable[[str, int, int], None]

_NOT_ADAPTED = "not in the adapter"


def walk(
    base: Checkpoint,
    tuned: Checkpoint,
    units: Sequence[Unit],
    reasons: Mapping[str, str],
    *,
    optimum: bool,
    progress: Progress | None,
) -> tuple[tuple[TensorReport, ...], list[Measurement]]:
    """Compare all units.

    Args:
        base: The base checkpoint.
        tuned: The tuned one.
        units: What to compare.
        reasons: Tensor -> why it cannot be adapted.
        optimum: Also find out what the best adapter would reproduce.
        progress: Called after every unit.

    Returns:
        A row for every tensor, and what was found about every adapted module.
    """
    rows = TensorRows(base, tuned)
    found: list[Measurement] = []
    done, whole = 0, sum(unit.nbytes for unit in units)
    with TensorReader() as reader:
        deltas, alike = DeltaReader(reader), dict[str, bool]()
        for unit in units:
            pair = unit.pair
            if isinstance(pair, TensorPair):
                rows.add(compare_pair(reader, pair, reasons.get(pair.name, _NOT_ADAPTED)))
            elif unit.placement is None:
                _compare_module(reader, pair, rows, alike)
            else:
                found.append(measure(reader, deltas, pair, unit.placement, optimum=optimum))
                rows.add_module(_tensors(pair), found[-1].tensors, None)
            done += unit.nbytes
            if progress is not None:
                progress(unit.name, done, whole)
    return rows.rows(), found


def _compare_module(
    reader: TensorReader, pair: ModulePair, rows: TensorRows, alike: dict[str, bool]
) -> None:
    """Compare a module that is not adapted: by its bits, or else by what they stand for.

    Args:
        reader: Reads either side.
        pair: The module.
        rows: Where the outcome goes.
        alike: Tensors whose bits have been compared, for several modules may share one.
    """
    tensors = same_tensors(pair)
    for both in tensors:
        if both.name not in alike:
            alike[both.name] = same_bits(reader, both)
    if tensors and all(alike[both.name] for both in tensors):
        for both in tensors:
            rows.add(unchanged(both))
        return
    rows.add_module(_tensors(pair), sum_up(reader, pair), _NOT_ADAPTED)


def _tensors(pair: ModulePair) -> tuple[str, ...]:
    return (*pair.base.tensors, *pair.tuned.tensors)

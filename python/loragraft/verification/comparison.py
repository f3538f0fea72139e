"""A tensor that no adapter module changes: equal on both sides, or left out and by how much."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from loragraft.adapter.delta import slabs
from loragraft.errors import NonFiniteError
from loragraft.finiteness import found_in
from loragraft.number_formats import WEIGHT_DTYPES
from loragraft.report.model import Outcome, TensorReport
from loragraft.verification.tally import tally_change, total
from loragraft.wording import shown

if TYPE_CHECKING:
    from loragraft.alignment import TensorPair
    from loragraft.checkpoint import TensorEntry
    from loragraft.tensor_reader import TensorReader


def compare_pair(reader: TensorReader, pair: TensorPair, reason: str) -> TensorReport:
    """Compare the two sides of a tensor that is not adapted, slab by slab.

    Formats that loragraft does not compute with are compared by their bytes.

    Args:
        reader: Reads either side.
        pair: The tensor.
        reason: Why it is not adapted; told if it changed.

    Raises:
        NonFiniteError: The tensor changed and holds NaN or Inf.
    """
    if pair.why or pair.base is None or pair.tuned is None:
        return _report(pair, Outcome.LEFT_OUT, pair.why)
    base, tuned = pair.base, pair.tuned
    if same_bits(reader, pair):
        return unchanged(pair)
    for entry in (base, tuned):
        if entry.dtype not in WEIGHT_DTYPES:
            return _report(pair, Outcome.LEFT_OUT, _not_computable(base, tuned, entry.dtype))
    change, scale = _change(reader, base, tuned)
    if change == 0.0:
        return _report(pair, Outcome.UNCHANGED, _equal_values(base, tuned), 0.0)
    relative = change / scale if scale > 0.0 else None
    return _report(pair, Outcome.LEFT_OUT, reason, relative)


def same_bits(reader: TensorReader, pair: TensorPair) -> bool:
    """Say whether both sides of a tensor have the same dtype and bytes."""
    base, tuned = pair.base, pair.tuned
    assert base is not None
    assert tuned is not None
    return base.dtype == tuned.dtype and same_bytes(reader, base, tuned)


def unchanged(pair: TensorPair) -> TensorReport:
    """Return the row of a tensor with `same_bits`."""
    return _report(pair, Outcome.UNCHANGED, "the same bits on both sides", 0.0)


def _report(
    pair: TensorPair, outcome: Outcome, why: str, relative_change: float | None = None
) -> TensorReport:
    known = pair.base or pair.tuned
    assert known is not None
    return TensorReport(
        name=pair.name,
        shape=known.shape,
        dtype_base=pair.base.dtype if pair.base else None,
        dtype_tuned=pair.tuned.dtype if pair.tuned else None,
        outcome=outcome,
        why=why,
        relative_change=relative_change,
    )


def _not_computable(base: TensorEntry, tuned: TensorEntry, dtype: str) -> str:
    differ = "bits differ" if base.dtype == tuned.dtype else f"{base.dtype} against {tuned.dtype}"
    return f"{dtype} is no format to compute with; {differ}"


def _equal_values(base: TensorEntry, tuned: TensorEntry) -> str:
    if base.dtype == tuned.dtype:
        return "equal values; only signs of zero differ"
    return f"equal values, stored as {base.dtype} and {tuned.dtype}"


def same_bytes(reader: TensorReader, left: TensorEntry, right: TensorEntry) -> bool:
    """Say whether two tensors of one size hold the same bytes."""
    flat = [replace(entry, dtype="U8", shape=(entry.nbytes,)) for entry in (left, right)]
    # A slab of n float32 values is 4·n bytes here as well.
    return all(
        np.array_equal(
            reader.raw_rows(flat[0], 4 * start, min(4 * stop, left.nbytes)),
            reader.raw_rows(flat[1], 4 * start, min(4 * stop, left.nbytes)),
        )
        for start, stop in slabs(-(-left.nbytes // 4), 1)
    )


def _change(reader: TensorReader, base: TensorEntry, tuned: TensorEntry) -> tuple[float, float]:
    """Return (‖W_tuned − W_base‖, ‖W_base‖) of tensors of any number of dimensions."""
    left, right = (replace(entry, shape=(entry.parameters,)) for entry in (base, tuned))
    tally = total(
        tally_change(reader.rows(left, start, stop), reader.rows(right, start, stop))
        for start, stop in slabs(base.parameters, 1)
    )
    if not tally.finite:
        entry, what = found_in(reader, (base, tuned)) or (base, "numbers whose squares overflow")
        raise NonFiniteError(
            f"{shown(entry.path)}: tensor {entry.name} holds {what}: expected finite weights;"
            " repair that checkpoint"
        )
    return math.sqrt(tally.delta), math.sqrt(tally.weight)

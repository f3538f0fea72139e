"""What an adapter carries beside its factors: as in TUNED, bit by bit, or not."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from loragraft.adapter.delta import slabs
from loragraft.adapter.restored import restored_by
from loragraft.adapter.tensor_names import tensors_in_memory
from loragraft.dtypes import to_float32
from loragraft.number_formats import WEIGHT_DTYPES
from loragraft.report.model import Outcome, TensorReport
from loragraft.tensor_reader import TensorReader
from loragraft.verification.comparison import same_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from loragraft.adapter.peft import PeftAdapter
    from loragraft.adapter.restored import Restored
    from loragraft.checkpoint import Checkpoint
    from loragraft.tensor_entry import TensorEntry

_SHOWN: Final = 3


class WholeCheck(NamedTuple):
    """What became of the tensors that an adapter carries.

    Attributes:
        tensors: The rows of the report with their outcomes.
        warnings: What is not as in TUNED, and what has no counterpart.
    """

    tensors: tuple[TensorReport, ...]
    warnings: tuple[str, ...] = ()


def check_whole(
    adapter: PeftAdapter,
    base: Checkpoint,
    tuned: Checkpoint,
    tensors: tuple[TensorReport, ...],
) -> WholeCheck:
    """Compare what an adapter carries beside its factors with TUNED.

    Args:
        adapter: The adapter.
        base: The base checkpoint.
        tuned: The tuned one.
        tensors: A row for every tensor of both.

    Raises:
        FormatError: A file cannot be read, or the adapter's config contradicts its tensors.
    """
    if not adapter.other_tensors:
        return WholeCheck(tensors)
    restoration = restored_by(adapter)
    ours, theirs = (side.tensors for side in tensors_in_memory(base, tuned))
    same: dict[str, str] = {}
    other: dict[str, str] = {}
    unknown = list(restoration.strays)
    with TensorReader() as reader:
        for name, restored in restoration.tensors.items():
            before, after = ours.get(name), theirs.get(name)
            if before is None or after is None:
                unknown.append(restored.source.name)
                continue
            fits = _fits(reader, before, after, restored)
            found = same if fits else other
            found.update(dict.fromkeys((before.name, after.name), restored.how))
    rows = tuple(_told(row, same, other) for row in tensors)
    return WholeCheck(rows, tuple(_warnings(unknown, other)))


def _fits(reader: TensorReader, base: TensorEntry, tuned: TensorEntry, restored: Restored) -> bool:
    """Say whether BASE with what the adapter carries is TUNED."""
    source = restored.source
    if source.dtype != tuned.dtype:
        return False
    if restored.tokens is None:
        return source.shape == tuned.shape and same_bytes(reader, source, tuned)
    if len(tuned.shape) != 2 or not base.shape[1:] == tuned.shape[1:] == source.shape[1:]:
        return False
    if base.dtype not in WEIGHT_DTYPES or tuned.dtype not in WEIGHT_DTYPES:
        return False
    tokens = np.array(restored.tokens, np.int64)
    return all(
        _slab_fits(reader, base, tuned, source, tokens, span) for span in slabs(*_size(tuned))
    )


def _size(entry: TensorEntry) -> tuple[int, int]:
    return entry.shape[0], entry.shape[1]


def _slab_fits(
    reader: TensorReader,
    base: TensorEntry,
    tuned: TensorEntry,
    source: TensorEntry,
    tokens: NDArray[np.int64],
    span: tuple[int, int],
) -> bool:
    """Say whether rows of TUNED are those of the adapter where it has them, else BASE's."""
    start, stop = span
    want = reader.raw_rows(tuned, start, stop)
    kept = np.ones(stop - start, np.bool_)
    for row in np.flatnonzero((tokens >= start) & (tokens < stop)).tolist():
        place = int(tokens[row]) - start
        kept[place] = False
        if reader.raw_rows(source, row, row + 1).tobytes() != want[place].tobytes():
            return False
    known = max(start, min(stop, base.shape[0])) - start
    if kept[known:].any():
        return False
    have = reader.raw_rows(base, start, start + known)[kept[:known]]
    rest = want[:known][kept[:known]]
    if base.dtype == tuned.dtype:
        return have.tobytes() == rest.tobytes()
    return np.array_equal(to_float32(have, base.dtype), to_float32(rest, tuned.dtype))


def _told(row: TensorReport, same: Mapping[str, str], other: Mapping[str, str]) -> TensorReport:
    """Return a row with what became of its tensor."""
    if row.name in other:
        why = f"{other[row.name]}, but not as in TUNED"
        return replace(row, outcome=Outcome.LEFT_OUT, why=why)
    if row.name in same and row.outcome is Outcome.LEFT_OUT:
        return replace(row, outcome=Outcome.SAVED_WHOLE, why=same[row.name])
    return row


def _warnings(unknown: Sequence[str], other: Mapping[str, str]) -> Iterable[str]:
    if other:
        yield f"tensors that the adapter carries are not as in TUNED: {_listed(sorted(other))}"
    if unknown:
        yield (
            "tensors of the adapter that are no LoRA factors were not verified:"
            f" {_listed(sorted(unknown))}"
        )


def _listed(names: Sequence[str]) -> str:
    return f"{len(names)}, such as {', '.join(names[:_SHOWN])}"

"""Rows of an embedding: which tokens changed, and what PEFT calls rows that it replaces.

PEFT's ``trainable_token_indices`` replaces rows of an embedding, or of a head without bias, by the
rows in the file; a head that is tied to the embedding follows it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from loragraft.number_formats import DTYPES

if TYPE_CHECKING:
    from loragraft.tensor_bytes import TensorBytes
    from loragraft.tensor_entry import TensorEntry

#: Up to this share of the rows, and up to this many, are replaced one by one; beyond, the whole
#: matrix is no dearer and is what more programs understand.
MOST_SHARE: Final = 0.01
MOST_ROWS: Final = 4096

_SLAB_BYTES: Final = 1 << 20


def token_key(module: str) -> str:
    """Return the tensor name of the rows that replace those of an embedding."""
    return f"base_model.model.{module}.token_adapter.trainable_tokens_delta"


def handful(rows: int) -> int:
    """Return how many rows of that many are few enough to be replaced one by one."""
    return min(MOST_ROWS, int(rows * MOST_SHARE))


def changed_rows(
    reader: TensorBytes, base: TensorEntry, tuned: TensorEntry, most: int
) -> tuple[int, ...] | None:
    """Return the rows of ``tuned`` that ``base`` lacks or stores differently.

    Both are read slab by slab, until more than ``most`` rows have been found. Sides of one dtype
    are compared by their bytes, others by their values.

    Args:
        reader: Reads both.
        base: A matrix.
        tuned: One with as many columns.
        most: How many rows to look for.

    Returns:
        Row numbers in ascending order, or None where there are more than ``most``.
    """
    common = min(base.shape[0], tuned.shape[0])
    new = range(common, tuned.shape[0])
    found: list[int] = []
    step = max(1, _SLAB_BYTES // max(1, _row_bytes(base), _row_bytes(tuned)))
    for start in range(0, common, step):
        if len(found) + len(new) > most:
            return None
        stop = min(common, start + step)
        found += (start + row for row in _different(reader, base, tuned, start, stop))
    return None if len(found) + len(new) > most else (*found, *new)


def same_bytes(reader: TensorBytes, one: TensorEntry, other: TensorEntry) -> bool:
    """Say whether two tensors are stored alike."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return all(
        reader.raw_part(one, start, stop) == reader.raw_part(other, start, stop)
        for start in range(0, one.nbytes, _SLAB_BYTES)
        for stop in [min(one.nbytes, start + _SLAB_BYTES)]
    )


def row_spans(entry: TensorEntry, rows: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Return where rows lie in a tensor's bytes, neighbours together: (start, stop) in order."""
    size = _row_bytes(entry)
    spans: list[tuple[int, int]] = []
    for row in rows:
        start = row * size
        if spans and spans[-1][1] == start:
            spans[-1] = (spans[-1][0], start + size)
        else:
            spans.append((start, start + size))
    return tuple(spans)


def _row_bytes(entry: TensorEntry) -> int:
    return entry.nbytes // entry.shape[0] if entry.shape and entry.shape[0] else 0


def _different(
    reader: TensorBytes, base: TensorEntry, tuned: TensorEntry, start: int, stop: int
) -> list[int]:
    """Return the rows of a slab that differ, counted from its start."""
    left, right = (
        reader.raw_part(entry, start * _row_bytes(entry), stop * _row_bytes(entry))
        for entry in (base, tuned)
    )
    if base.dtype != tuned.dtype:
        return _different_values(left, base.dtype, right, tuned.dtype, stop - start)
    if left == right:
        return []
    size = _row_bytes(base)
    return [
        row
        for row in range(stop - start)
        if left[row * size : (row + 1) * size] != right[row * size : (row + 1) * size]
    ]


def _different_values(
    left: bytearray, left_dtype: str, right: bytearray, right_dtype: str, rows: int
) -> list[int]:
    # Only here is NumPy needed, which takes longer to load than most embeddings to compare.
    import numpy as np  # noqa: PLC0415

    from loragraft.dtypes import to_float32  # noqa: PLC0415

    values = (
        to_float32(np.frombuffer(data, np.dtype(DTYPES[code].storage)), code).reshape(rows, -1)
        for data, code in ((left, left_dtype), (right, right_dtype))
    )
    one, other = values
    return [int(row) for row in np.flatnonzero((one != other).any(axis=1))]

"""The factors of a GGUF adapter, as arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loragraft.ggml.tensor_types import Q8_0
from loragraft.weights.reader import rows
from loragraft.weights.source import Q8Blocks, matrix_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from loragraft.adapter.gguf.reading import GgufPair
    from loragraft.tensor_entry import TensorEntry
    from loragraft.tensor_reader import TensorReader


def read_factors(
    reader: TensorReader, pair: GgufPair, expert: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return B ``(out, rank)`` and A ``(rank, in)`` of a weight, or of one of its experts.

    Rows and columns are in the order of llama.cpp's file.

    Raises:
        FormatError: The file cannot be read.
    """
    a, b = _matrix(reader, pair.a, expert), _matrix(reader, pair.b, expert)
    return b, a.T if pair.embedding else a


def _matrix(reader: TensorReader, entry: TensorEntry, expert: int) -> NDArray[np.float32]:
    height, width = entry.shape[-2:]
    if entry.dtype == Q8_0:
        return rows(reader, Q8Blocks(entry, height, width, height * expert), 0, height)
    start = height * expert
    return rows(reader, matrix_of(entry), start, start + height)

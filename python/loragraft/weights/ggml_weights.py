"""Weights of models in GGUF files that lie otherwise than transformers has them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from loragraft.ggml.row_order import runs
from loragraft.ggml.tensor_types import Q8_0
from loragraft.number_formats import WEIGHT_DTYPES
from loragraft.weights.source import Interleaved, Q8Blocks, Stacked, matrix_of, slices_of
from loragraft.weights.stored_weight import StoredWeight

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loragraft.checkpoint import Checkpoint
    from loragraft.ggml.row_order import Order
    from loragraft.tensor_entry import TensorEntry
    from loragraft.weights.source import Plain, Source

_EXPERTS: Final = re.compile(r"(.*\.experts)\.(gate_proj|up_proj|down_proj|gate_up_proj)\.weight")


def find_ggml_weights(checkpoint: Checkpoint) -> dict[str, StoredWeight]:
    """Return the weights whose rows lie in another order, in blocks, or with those of others.

    Args:
        checkpoint: Of GGUF files; any other has none.
    """
    storage = checkpoint.ggml
    if storage is None:
        return {}
    found: dict[str, StoredWeight] = {}
    experts: dict[str, dict[str, TensorEntry]] = {}
    for name, entry in checkpoint.tensors.items():
        match = _EXPERTS.fullmatch(name)
        if not _is_read(entry):
            continue
        if match and len(entry.shape) == 3:
            experts.setdefault(match[1], {})[match[2]] = entry
        elif len(entry.shape) == 2 and (name in storage.orders or entry.dtype == Q8_0):
            matrix = _ordered(_matrices(entry)[0], storage.orders.get(name))
            found[name] = StoredWeight(name, entry.dtype, entry.shape, (matrix,), (name,))
    for path, parts in experts.items():
        for weight in _of_experts(path, parts, interleaved=storage.interleaved):
            found[weight.name] = weight
    return found


def _is_read(entry: TensorEntry) -> bool:
    return entry.dtype in WEIGHT_DTYPES or entry.dtype == Q8_0


def _matrices(entry: TensorEntry) -> tuple[Plain | Q8Blocks, ...]:
    """Return the matrix that a tensor is, or those that it stacks."""
    if entry.dtype != Q8_0:
        return slices_of(entry) if len(entry.shape) == 3 else (matrix_of(entry),)
    rows, columns = entry.shape[-2:]
    count = entry.shape[0] if len(entry.shape) == 3 else 1
    return tuple(Q8Blocks(entry, rows, columns, first_row=rows * i) for i in range(count))


def _ordered(matrix: Plain | Q8Blocks, order: Order | None) -> Source:
    """Return a matrix with its rows in the order of the model."""
    if order is None:
        return matrix
    pieces = [matrix.rows_from(*run) for run in runs(order.inverse)]
    return Stacked(tuple(pieces)) if len(pieces) > 1 else pieces[0]


def _of_experts(
    path: str, parts: dict[str, TensorEntry], *, interleaved: bool
) -> Iterator[StoredWeight]:
    """Yield the parameters that transformers has for what the files hold of a block's experts."""
    gate, up = parts.pop("gate_proj", None), parts.pop("up_proj", None)
    if gate is not None and up is not None and gate.shape == up.shape:
        join = Interleaved if interleaved else Stacked
        pairs = zip(_matrices(gate), _matrices(up), strict=True)
        count, rows, columns = gate.shape
        yield StoredWeight(
            f"{path}.gate_up_proj",
            gate.dtype,
            (count, 2 * rows, columns),
            tuple(join(pair) for pair in pairs),
            (gate.name, up.name),
            out_in=True,
        )
    for name, entry in parts.items():
        matrices = _matrices(entry)
        yield StoredWeight(
            f"{path}.{name}", entry.dtype, entry.shape, matrices, (entry.name,), out_in=True
        )

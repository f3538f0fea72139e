"""What the files of a merged checkpoint hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from loragraft.adapted.tensors import TensorMerger
from loragraft.number_formats import WEIGHT_DTYPES
from loragraft.weights.pieces import pieces
from loragraft.weights.source import Plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from loragraft.adapted.changes import Changes
    from loragraft.adapted.tensors import Part
    from loragraft.architecture.modules import Inventory
    from loragraft.checkpoint import Checkpoint
    from loragraft.safetensors_writer import Layout
    from loragraft.tensor_reader import TensorReader


class Contents(Protocol):
    """The tensors of a checkpoint that is laid out like another."""

    def layout(self, names: Iterable[str], *, last: bool) -> list[Layout]:
        """Return what the counterpart of a file holds, given what that file does."""

    def parts(self, name: str) -> Iterator[Part]:
        """Yield a tensor from its first byte to its last."""


@dataclass(frozen=True, slots=True)
class MergedTensors:
    """The tensors of a base with an adapter's changes made, each in its file."""

    base: Checkpoint
    tensors: TensorMerger

    def layout(self, names: Iterable[str], *, last: bool) -> list[Layout]:
        """Return name, dtype and shape of tensors of the base; ``last`` makes no difference."""
        del last
        entries = [self.base.tensors[name] for name in names]
        return [(entry.name, self.tensors.code(entry), entry.shape) for entry in entries]

    def parts(self, name: str) -> Iterator[Part]:
        """Yield a tensor from its first byte to its last; see `TensorMerger.parts`."""
        return self.tensors.parts(self.base.tensors[name])


def merged_tensors(
    base: Checkpoint, changes: Changes, reader: TensorReader, dtype: str | None
) -> MergedTensors:
    """Return the tensors of a base with changes made.

    Args:
        base: The base.
        changes: What changes.
        reader: Reads the base and the adapter.
        dtype: Safetensors code that all weights are stored in; None keeps each as it is.
    """
    kept = _of_codes(changes.inventory)
    dtypes = {
        entry.name: dtype
        for entry in base.tensors.values()
        if dtype and entry.dtype in WEIGHT_DTYPES and entry.name not in kept
    }
    return MergedTensors(base, TensorMerger(reader, changes.patches, dtypes, changes.replaced))


def _of_codes(inventory: Inventory) -> frozenset[str]:
    """Return the tensors of weights that are stored as codes, the scales among them."""
    return frozenset(
        entry.name
        for linear in inventory.linears
        for matrix in linear.matrices
        for piece in pieces(matrix)
        if not isinstance(piece.source, Plain)
        for entry in piece.source.entries
    )

"""A weight as a checkpoint stores it: its name, its shape, and the matrices it is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from loragraft.weights.source import matrix_of, slices_of

if TYPE_CHECKING:
    from loragraft.tensor_entry import TensorEntry
    from loragraft.weights.source import Source


class StoredWeight(NamedTuple):
    """A weight under the name that its plain tensor has, or would have.

    Attributes:
        name: Such as ``model.layers.0.mlp.up_proj.weight``.
        dtype: Of the tensor, or of the codes.
        shape: As it is computed with: ``(rows, columns)``, or ``(experts, rows, columns)``.
        matrices: What it stands for: one matrix, or one per expert.
        tensors: Names of the tensors that hold it, the codes first.
        out_in: The matrices are ``[out, in]`` whatever the family's plain tensors are.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    matrices: tuple[Source, ...]
    tensors: tuple[str, ...]
    out_in: bool = False

    @classmethod
    def plain(cls, entry: TensorEntry) -> StoredWeight:
        """Return a tensor that holds its own values."""
        matrices: tuple[Source, ...]
        matrices = slices_of(entry) if len(entry.shape) == 3 else (matrix_of(entry),)
        return cls(entry.name, entry.dtype, entry.shape, matrices, (entry.name,))

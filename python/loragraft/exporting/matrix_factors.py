"""The factors of one matrix, and how those of several become those of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loragraft.architecture.expert_layout import Projection
    from loragraft.architecture.linear_module import LinearModule


class MatrixFactors(NamedTuple):
    """scaling·B·A is the change of a matrix.

    Attributes:
        b: ``(out, r)``.
        a: ``(r, in)``.
        scaling: A factor of the product.
        dtype: Safetensors code of what they were stored in.
    """

    b: NDArray[np.float32]
    a: NDArray[np.float32]
    scaling: float
    dtype: str

    @property
    def folded(self) -> MatrixFactors:
        """The same with the scaling in B."""
        if self.scaling == 1.0:
            return self
        return MatrixFactors(self.b * np.float32(self.scaling), self.a, 1.0, "F32")


class FactorSource(Protocol):
    """An adapter in whatever format, asked for single matrices of its base."""

    def layer(self, linear: LinearModule) -> MatrixFactors | None:
        """Return the factors of a weight of its own, None where it is not adapted."""

    def expert(self, layer: int | None, which: Projection, number: int) -> MatrixFactors | None:
        """Return the factors of the gate, up or down matrix of an expert."""

    def unused(self) -> tuple[str, ...]:
        """Return what nobody has asked for, by the names of the source."""


def joined(
    gate: MatrixFactors | None, up: MatrixFactors | None, *, rows: int, interleaved: bool
) -> MatrixFactors | None:
    """Return the factors of the matrix that has the rows of gate and of up.

    Where both have the same A the rank stays; else it is the sum of both.

    Args:
        gate: Of the gate, None where it is not adapted.
        up: Of up.
        rows: Rows of either.
        interleaved: The rows alternate; else the gate's come first.
    """
    some = gate or up
    if some is None:
        return None
    if gate and up and gate.scaling == up.scaling and np.array_equal(gate.a, up.a):
        halves, a, scaling = (gate.b, up.b), gate.a, gate.scaling
        dtype = gate.dtype if gate.dtype == up.dtype else "F32"
    else:
        found = [one.folded for one in (gate, up) if one is not None]
        a, scaling = np.concatenate([one.a for one in found]), 1.0
        dtypes = {one.dtype for one in found}
        dtype = dtypes.pop() if len(dtypes) == 1 else "F32"
        halves = _apart(gate and gate.folded.b, up and up.folded.b, rows, len(a))
    b = np.empty((2 * rows, len(a)), np.float32)
    slots = (
        (slice(0, None, 2), slice(1, None, 2))
        if interleaved
        else (slice(0, rows), slice(rows, None))
    )
    for slot, half in zip(slots, halves, strict=True):
        b[slot] = half
    return MatrixFactors(b, a, scaling, dtype)


def _apart(
    gate: NDArray[np.float32] | None, up: NDArray[np.float32] | None, rows: int, rank: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return two B's of which each reaches its own rows of A alone."""
    halves = np.zeros((2, rows, rank), np.float32)
    if gate is not None:
        halves[0, :, : gate.shape[1]] = gate
    if up is not None:
        halves[1, :, rank - up.shape[1] :] = up
    return halves[0], halves[1]

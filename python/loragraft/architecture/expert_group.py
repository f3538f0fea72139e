"""The experts of one block of a checkpoint, each matrix as ``[out, in]``."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from loragraft.architecture.expert_layout import Projection
from loragraft.architecture.source_parts import rows_of
from loragraft.errors import MismatchError
from loragraft.weights.source import Interleaved, Stacked
from loragraft.wording import quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loragraft.architecture.expert_layout import ExpertLayout
    from loragraft.weights.source import Source


class ExpertGroup(NamedTuple):
    """The experts of one block, in whatever form its checkpoint stores them.

    Attributes:
        module: Path in memory of the module that holds them.
        single: Path that the names of single experts begin with, such as
            ``model.layers.3.block_sparse_moe.experts``.
        layout: The family's word on them.
        stored: What the files hold -> the matrices of all experts in order, ``[out, in]``.
        interleaved: Rows of gate and up alternate in a stored ``GATE_UP``.
        tensors: What the files hold -> the names of all tensors it is in, scales included: those of
            every expert in turn, or one for all.
        first: Number of the first expert in names of single experts.
        proven: False where config.json alone says what the tensors are: it does not tell which
            rows of a stored ``GATE_UP`` are the gate's.
    """

    module: str
    single: str
    layout: ExpertLayout
    stored: Mapping[Projection, tuple[Source, ...]]
    interleaved: bool
    tensors: Mapping[Projection, tuple[str, ...]]
    first: int = 0
    proven: bool = True

    @property
    def experts(self) -> int:
        """How many experts there are, idle ones aside."""
        return len(self.stored[Projection.DOWN])

    @property
    def example(self) -> str:
        """Name of the first of the tensors."""
        return next(iter(self.tensors.values()))[0]

    def matrices(self, projection: Projection) -> tuple[Source, ...]:
        """Return a matrix of every expert, ``[out, in]``.

        ``GATE_UP`` has its rows in the order of the model in memory.

        Raises:
            MismatchError: Gate and up cannot be told or taken apart.
        """
        stored = self.stored.get(projection)
        if projection is not Projection.GATE_UP:
            return self._half(projection) if stored is None else stored
        interleaved = self.layout.memory.interleaved
        if stored is not None and (self.interleaved == interleaved or not self.proven):
            return stored
        pairs = zip(self.matrices(Projection.GATE), self.matrices(Projection.UP), strict=True)
        return tuple(Interleaved(pair) if interleaved else Stacked(pair) for pair in pairs)

    def names(self, projection: Projection) -> tuple[str, ...]:
        """Return the names of the tensors that hold a projection of all experts."""
        if projection in self.tensors:
            return self.tensors[projection]
        if projection is Projection.GATE_UP:
            return self.tensors[Projection.GATE] + self.tensors[Projection.UP]
        return self.tensors[Projection.GATE_UP]

    def _half(self, projection: Projection) -> tuple[Source, ...]:
        """Return the gate's rows, or those of up, out of matrices that hold both."""
        name = quoted(self.names(projection)[0])
        if not self.proven:
            raise MismatchError(
                f"tensor {name}: which of its rows are the gate's is not known for this model"
                " type; choose --moe-layout peft, or describe the family"
                " (docs/adding-a-family.md)"
            )
        second = projection is Projection.UP
        halves: list[Source] = []
        for both in self.stored[Projection.GATE_UP]:
            count = both.rows // 2
            start, step = (int(second), 2) if self.interleaved else (count * second, 1)
            try:
                halves.append(rows_of(both, start, count, step))
            except ValueError as error:
                raise MismatchError(
                    f"tensor {name}: gate and up cannot be taken apart ({error}); choose"
                    " --moe-layout peft"
                ) from None
        return tuple(halves)

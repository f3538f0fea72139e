"""A low-rank pair of a GGUF adapter: which factors of a PEFT adapter it is made of, and how."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loragraft.adapter.delta import DeltaReader
    from loragraft.adapter.placement import Placement
    from loragraft.ggml.row_order import Order


class Part(NamedTuple):
    """The factors of one matrix.

    Attributes:
        placement: The module of the adapter that has them.
        expert: Which of its experts.
        rows: Those rows of the matrix that are meant.
    """

    placement: Placement
    expert: int = 0
    rows: slice = slice(None)


class Pair(NamedTuple):
    """What becomes ``NAME.lora_a`` and ``NAME.lora_b``.

    Attributes:
        name: ggml's name of the weight, such as ``blk.0.attn_q.weight``.
        parts: One matrix; of experts one each in their order, None for what is not adapted.
        shape: ``(out, in)`` of each matrix.
        rank: The largest of the parts; smaller ones are filled up with zeros.
        stacked: The parts are experts, and the pair has a third dimension.
        order: How the rows or columns lie in llama.cpp's file.
        embedding: A is stored transposed, ``[tokens, rank]``, as for ``token_embd``.
    """

    name: str
    parts: tuple[Part | None, ...]
    shape: tuple[int, int]
    rank: int
    stacked: bool = False
    order: Order | None = None
    embedding: bool = False

    @property
    def modules(self) -> tuple[Placement, ...]:
        """The modules that it is made of, each once."""
        found = {part.placement.module.name: part.placement for part in self.parts if part}
        return tuple(found.values())

    @property
    def scalings(self) -> frozenset[float]:
        """What the products are multiplied with; several where experts differ."""
        return frozenset(placement.module.scaling for placement in self.modules)

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of A and of B as they are stored."""
        (out, into), stack = self.shape, (len(self.parts),) if self.stacked else ()
        a = (into, self.rank) if self.embedding else (self.rank, into)
        return (*stack, *a), (*stack, out, self.rank)

    def factors(
        self, reader: DeltaReader, *, scaled: bool
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Read A and B in float32, in the order of llama.cpp's file.

        Args:
            reader: Reads the adapter.
            scaled: Multiply B by the scaling of its module.

        Raises:
            FormatError: A file cannot be read.
            NonFiniteError: A factor holds NaN or Inf.
        """
        shape_a, shape_b = self.shapes
        a, b = np.zeros(shape_a, np.float32), np.zeros(shape_b, np.float32)
        for place, part in enumerate(self.parts):
            if part is None:
                continue
            delta = reader.delta(part.placement, part.expert, transposed=False)
            left, right = delta.left[part.rows], delta.right
            if scaled:
                # What overflows is found, and told, by whoever narrows it.
                with np.errstate(over="ignore", invalid="ignore"):
                    left = left * np.float32(delta.scaling)
            if self.order is not None and self.order.columns:
                right = right[:, self.order.places]
            elif self.order is not None:
                left = left[self.order.places]
            at_a, at_b = (a[place], b[place]) if self.stacked else (a, b)
            if self.embedding:
                at_a[:, : right.shape[0]] = right.T
            else:
                at_a[: right.shape[0]] = right
            at_b[:, : left.shape[1]] = left
        return a, b

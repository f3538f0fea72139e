"""A weight that an adapter can be put on."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from loragraft.architecture.address import Address
    from loragraft.architecture.roles import Role
    from loragraft.weights.source import Source

_BLOCK_WORDS: Final = frozenset({"layers", "h", "blocks", "block", "layer"})


class LinearModule(NamedTuple):
    """A weight that an adapter can be put on: a linear layer, or one of each expert of a block.

    Attributes:
        name: Module path in memory, as PEFT names it; of the parameter where experts share one.
        kind: Last component of the path, such as ``q_proj``, or ``experts.down_proj``.
        role: What it does in its block.
        layer: Block number, None outside the blocks.
        shape: ``(out, in)`` of one matrix, whichever way round it is stored.
        transposed: The matrices are ``[in, out]``.
        tensors: Names of the tensors that it is made of, scales included.
        matrices: The weight, or those of the experts in their order.
        experts: How many experts there are; 0 for a layer of its own.
        address: How PEFT reaches it.
    """

    name: str
    kind: str
    role: Role
    layer: int | None
    shape: tuple[int, int]
    transposed: bool
    tensors: tuple[str, ...]
    matrices: tuple[Source, ...]
    experts: int
    address: Address

    @property
    def tensor(self) -> str:
        """Name of the first of its tensors."""
        return self.tensors[0]


def layer_of(name: str) -> int | None:
    """Return a module's block number: the first integer after a word for the list of blocks."""
    parts = name.split(".")
    for word, number in pairwise(parts):
        if word in _BLOCK_WORDS and number.isascii() and number.isdigit():
            return int(number)
    return None

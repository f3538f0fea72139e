"""The tensors of two checkpoints side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from loragraft.architecture.modules import Role
from loragraft.errors import MismatchError
from loragraft.wording import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loragraft.architecture.modules import Inventory
    from loragraft.checkpoint import Checkpoint, TensorEntry

_SHOWN = 3


class TensorPair(NamedTuple):
    """One tensor name and what either side stores under it.

    Attributes:
        name: As in the checkpoints.
        base: The base side, None where it lacks the tensor.
        tuned: The tuned side, None where it lacks the tensor.
        why: Why the two cannot be compared; empty where they can.
    """

    name: str
    base: TensorEntry | None
    tuned: TensorEntry | None
    why: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes stored on both sides together."""
        return sum(entry.nbytes for entry in (self.base, self.tuned) if entry is not None)


def align(base: Checkpoint, tuned: Checkpoint, inventory: Inventory) -> tuple[TensorPair, ...]:
    """Pair every tensor of both checkpoints by name, the base's order first.

    A tensor on one side only, and an embedding or output head whose vocabulary grew, are pairs
    with a reason.

    Args:
        base: The base checkpoint.
        tuned: The tuned one.
        inventory: What ``base`` consists of; it tells which tensors have a vocabulary.

    Raises:
        MismatchError: Shapes that differ otherwise.
    """
    vocabulary = _vocabulary_modules(inventory)
    pairs, misfits = [], []
    for name in (*base.tensors, *(name for name in tuned.tensors if name not in base.tensors)):
        left, right = base.tensors.get(name), tuned.tensors.get(name)
        why = ""
        if left is None or right is None:
            why = "only in TUNED" if left is None else "only in BASE"
        elif left.shape != right.shape:
            if _grew(left, right) and name.rpartition(".")[0] in vocabulary:
                rows = left.shape[0], right.shape[0]
                why = f"vocabulary differs: {rows[0]} rows in BASE, {rows[1]} in TUNED"
            else:
                misfits.append((left, right))
        pairs.append(TensorPair(name, left, right, why))
    if misfits:
        raise _mismatch(base, tuned, misfits)
    return tuple(pairs)


def _vocabulary_modules(inventory: Inventory) -> frozenset[str]:
    """Paths of the modules whose first dimension is the vocabulary."""
    tensors = [name for name, why in inventory.others.items() if "embedding" in why]
    tensors += [linear.tensor for linear in inventory.linears if linear.role is Role.HEAD]
    return frozenset(name.rpartition(".")[0] for name in tensors)


def _grew(left: TensorEntry, right: TensorEntry) -> bool:
    return (
        bool(left.shape)
        and len(left.shape) == len(right.shape)
        and (left.shape[1:] == right.shape[1:])
    )


def _mismatch(
    base: Checkpoint, tuned: Checkpoint, misfits: Sequence[tuple[TensorEntry, TensorEntry]]
) -> MismatchError:
    first = ", ".join(
        f"{left.name} {left.shape} against {right.shape}" for left, right in misfits[:_SHOWN]
    )
    more = f" and {len(misfits) - _SHOWN} more" if len(misfits) > _SHOWN else ""
    return MismatchError(
        f"{shown(base.reference)} and {shown(tuned.reference)} have tensors of different shapes,"
        f" {len(misfits)} in all: {first}{more}; give two checkpoints of one architecture"
    )

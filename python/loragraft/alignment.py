"""The weights of two checkpoints side by side."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from loragraft.architecture.modules import Role
from loragraft.errors import MismatchError
from loragraft.wording import shown

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from loragraft.architecture.modules import Inventory, LinearModule
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


class ModulePair(NamedTuple):
    """One module as either side stores it; the two have the same name and shape."""

    base: LinearModule
    tuned: LinearModule


class Alignment(NamedTuple):
    """Every tensor of both checkpoints.

    Attributes:
        modules: Modules that both sides have, in the base's order.
        others: All tensors that belong to none of these, the base's order first.
    """

    modules: tuple[ModulePair, ...]
    others: tuple[TensorPair, ...]


def align(
    base: Checkpoint,
    tuned: Checkpoint,
    ours: Inventory,
    theirs: Inventory,
    embeddings: Collection[str] = (),
) -> Alignment:
    """Pair the modules of two checkpoints, and their other tensors by name.

    Modules pair where they have the same path in memory, for the two sides may store a weight in
    different ways, or else where their tensors have the same names. A tensor on one side only, and
    an embedding or output head whose vocabulary grew, are pairs with a reason.

    Args:
        base: The base checkpoint.
        tuned: The tuned one.
        ours: What ``base`` consists of.
        theirs: What ``tuned`` consists of.
        embeddings: Names of embeddings that are modules too, where both sides have the same rows.

    Raises:
        MismatchError: Shapes or numbers of experts that differ otherwise.
    """
    modules, misfits, taken = [], [], set[str]()
    for both in _matched(ours, theirs, embeddings):
        if _vocabulary_grew(both):
            continue
        taken.update(both.base.tensors, both.tuned.tensors)
        if both.base.shape == both.tuned.shape and both.base.experts == both.tuned.experts:
            modules.append(both)
        else:
            misfits.append(_misfit(both))
    vocabulary = _vocabulary_tensors(ours) | _vocabulary_tensors(theirs)
    others = []
    for name in dict.fromkeys((*base.tensors, *tuned.tensors)):
        if name in taken:
            continue
        pair = _pair(name, base, tuned, vocabulary)
        if pair is None:
            misfits.append(f"{name} {base.tensors[name].shape} against {tuned.tensors[name].shape}")
        else:
            others.append(pair)
    if misfits:
        raise _mismatch(base, tuned, misfits)
    return Alignment(tuple(modules), tuple(others))


def _pair(
    name: str, base: Checkpoint, tuned: Checkpoint, vocabulary: frozenset[str]
) -> TensorPair | None:
    """Pair what either side has under a name; None where the shapes differ without a reason."""
    left, right = base.tensors.get(name), tuned.tensors.get(name)
    if left is None or right is None:
        return TensorPair(name, left, right, "only in TUNED" if left is None else "only in BASE")
    if left.shape == right.shape:
        return TensorPair(name, left, right)
    if name not in vocabulary or not _rows_alone_differ(left.shape, right.shape):
        return None
    rows = left.shape[0], right.shape[0]
    why = f"vocabulary differs: {rows[0]} rows in BASE, {rows[1]} in TUNED"
    return TensorPair(name, left, right, why)


def _matched(
    ours: Inventory, theirs: Inventory, embeddings: Collection[str]
) -> Iterator[ModulePair]:
    by_name = {linear.name: linear for linear in (*theirs.embeddings, *theirs.linears)}
    # Several modules may lie in one tensor: all experts of a block.
    counts = Counter(linear.tensors for linear in theirs.linears)
    alone = {linear.tensors: linear for linear in theirs.linears if counts[linear.tensors] == 1}
    # A text model may lie in a file by itself, or within one that sees and hears.
    unwrapped = {_unwrapped(linear.name): linear for linear in theirs.linears}
    wanted = [linear for linear in ours.embeddings if linear.name in embeddings]
    for linear in (*ours.linears, *wanted):
        other = by_name.get(linear.name) or alone.get(linear.tensors)
        other = other or unwrapped.get(_unwrapped(linear.name))
        if other is not None:
            yield ModulePair(linear, other)


def _unwrapped(name: str) -> str:
    return name.replace("language_model.", "", 1)


def _vocabulary_grew(pair: ModulePair) -> bool:
    ours, theirs = pair
    if ours.shape == theirs.shape:
        return False
    if ours.role is Role.EMBEDDING:
        return ours.shape[0] == theirs.shape[0]
    return ours.role is Role.HEAD and _rows_alone_differ(ours.shape, theirs.shape)


def _vocabulary_tensors(inventory: Inventory) -> frozenset[str]:
    """Tensors of the modules whose first dimension is the vocabulary, biases included."""
    tensors = [name for name, why in inventory.others.items() if "embedding" in why]
    tensors += [linear.tensor for linear in inventory.linears if linear.role is Role.HEAD]
    modules = {name.rpartition(".")[0] for name in tensors}
    return frozenset(
        {*tensors, *(name for name in inventory.others if name.rpartition(".")[0] in modules)}
    )


def _rows_alone_differ(left: tuple[int, ...], right: tuple[int, ...]) -> bool:
    return bool(left) and len(left) == len(right) and left[1:] == right[1:]


def _misfit(pair: ModulePair) -> str:
    ours, theirs = pair
    if ours.experts != theirs.experts:
        return f"{ours.name} has {ours.experts} experts in BASE and {theirs.experts} in TUNED"
    return f"{ours.tensor} {ours.shape} against {theirs.shape}"


def _mismatch(base: Checkpoint, tuned: Checkpoint, misfits: Sequence[str]) -> MismatchError:
    more = f" and {len(misfits) - _SHOWN} more" if len(misfits) > _SHOWN else ""
    return MismatchError(
        f"{shown(base.reference)} and {shown(tuned.reference)} have weights of different shapes, or"
        f" different numbers of experts, {len(misfits)} in all: {', '.join(misfits[:_SHOWN])}"
        f"{more}; give two checkpoints of one architecture"
    )

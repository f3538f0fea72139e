"""What is compared together: tensors by themselves, and modules with all of their tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from loragraft.alignment import ModulePair, TensorPair
from loragraft.errors import MismatchError
from loragraft.number_formats import WEIGHT_DTYPES
from loragraft.wording import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from loragraft.adapter.placement import Placement
    from loragraft.alignment import Alignment
    from loragraft.architecture.modules import Inventory, LinearModule
    from loragraft.checkpoint import Checkpoint
    from loragraft.tensor_entry import TensorEntry


class Unit(NamedTuple):
    """A tensor or a module on both sides.

    Attributes:
        pair: Either.
        placement: A module's place in the adapter; None where it is not adapted.
        nbytes: Bytes of it that no unit before has.
    """

    pair: TensorPair | ModulePair
    placement: Placement | None
    nbytes: int

    @property
    def name(self) -> str:
        """The tensor, or the module where it has several matrices."""
        if isinstance(self.pair, TensorPair):
            return self.pair.name
        linear = self.pair.base
        return linear.tensor if len(linear.matrices) == 1 else linear.name


def check_adapted(
    alignment: Alignment, placements: Sequence[Placement], theirs: Inventory, tuned: Checkpoint
) -> None:
    """Refuse modules of the adapter whose change cannot be computed.

    Raises:
        MismatchError: TUNED does not have one, or not in a format that is computed with.
    """
    paired = {pair.base.name for pair in alignment.modules}
    others = {pair.name: pair for pair in alignment.others}
    for placement in placements:
        linear = placement.linear
        if linear.name in paired:
            continue
        pair = others.get(linear.tensor)
        why = pair.why if pair else ""
        why = why or theirs.others.get(linear.tensor, "TUNED does not have that module")
        raise MismatchError(
            f"tensor {linear.tensor} is adapted but cannot be compared: {why}; give the"
            f" checkpoint that the adapter was made from instead of {shown(tuned.reference)}"
        )


def units_of(
    base: Checkpoint, tuned: Checkpoint, alignment: Alignment, placements: Iterable[Placement]
) -> tuple[Unit, ...]:
    """Return what is to be compared, in the order of the tensors in the base.

    A module that is not adapted and lies in the same plain tensors on both sides is compared tensor
    by tensor, unless an adapted module has a part of one.
    """
    placed = {placement.linear.name: placement for placement in placements}
    adapted = [pair for pair in alignment.modules if pair.base.name in placed]
    touched = {name for pair in adapted for name in (*pair.base.tensors, *pair.tuned.tensors)}
    pairs: dict[str, TensorPair | ModulePair] = {pair.name: pair for pair in alignment.others}
    for pair in alignment.modules:
        if pair.base.name not in placed and touched.isdisjoint(pair.base.tensors):
            tensors = _same_plain_tensors(pair)
            if tensors:
                pairs |= {both.name: both for both in tensors}
                continue
        # No name of a tensor has a space in front.
        pairs[f" {pair.base.name}"] = pair
    place = {name: i for i, name in enumerate(dict.fromkeys((*base.tensors, *tuned.tensors)))}
    ordered = sorted(pairs.values(), key=lambda pair: place[_first_tensor(pair)])
    return tuple(_counted(ordered, placed))


def _first_tensor(pair: TensorPair | ModulePair) -> str:
    return pair.name if isinstance(pair, TensorPair) else pair.base.tensor


def same_tensors(pair: ModulePair) -> tuple[TensorPair, ...]:
    """Return a module's tensors side by side if they are alike, but for their dtypes; else none."""
    ours, theirs = _entries(pair.base), _entries(pair.tuned)
    if ours.keys() != theirs.keys():
        return ()
    if any(ours[name].shape != theirs[name].shape for name in ours):
        return ()
    return tuple(TensorPair(name, ours[name], theirs[name]) for name in ours)


def _same_plain_tensors(pair: ModulePair) -> tuple[TensorPair, ...]:
    pairs = same_tensors(pair)
    dtypes = {entry.dtype for both in pairs for entry in (both.base, both.tuned) if entry}
    return pairs if dtypes.issubset(WEIGHT_DTYPES) else ()


def _entries(linear: LinearModule) -> dict[str, TensorEntry]:
    return {entry.name: entry for source in linear.matrices for entry in source.entries}


def _counted(
    pairs: Iterable[TensorPair | ModulePair], placed: dict[str, Placement]
) -> Iterator[Unit]:
    """Yield units; bytes of a tensor count for the first that has it."""
    counted: set[tuple[bool, str]] = set()
    for pair in pairs:
        if isinstance(pair, TensorPair):
            yield Unit(pair, None, pair.nbytes)
            continue
        nbytes = 0
        for is_base, linear in ((True, pair.base), (False, pair.tuned)):
            for name, entry in _entries(linear).items():
                if (is_base, name) not in counted:
                    counted.add((is_base, name))
                    nbytes += entry.nbytes
        yield Unit(pair, placed.get(pair.base.name), nbytes)

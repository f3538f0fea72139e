"""What an adapter changes of a base, tensor by tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from loragraft.adapted.patches import patches_of
from loragraft.adapted.whole import replacements
from loragraft.adapter.placement import place_adapter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loragraft.adapted.patches import Patch
    from loragraft.adapter.peft import PeftAdapter
    from loragraft.adapter.restored import Restored
    from loragraft.architecture.modules import Inventory
    from loragraft.checkpoint import Checkpoint
    from loragraft.tensor_bytes import TensorBytes


class Changes(NamedTuple):
    """What becomes of the tensors of a base.

    Attributes:
        modules: Number of modules that have factors.
        inventory: What the base consists of.
        patches: Tensor -> what factors change of it.
        replaced: Tensor -> what takes its place, or that of its rows.
    """

    modules: int
    inventory: Inventory
    patches: Mapping[str, Sequence[Patch]]
    replaced: Mapping[str, Restored]


def changes_of(
    adapter: PeftAdapter, base: Checkpoint, reader: TensorBytes, *, lenient: bool = False
) -> Changes:
    """Sort what an adapter does by the tensors of a base.

    Args:
        adapter: The adapter.
        base: What it is merged into.
        reader: Reads the adapter.
        lenient: Leave tensors as they are that cannot take up what the adapter has for them,
            instead of refusing: weights stored as codes, and what `replacements` refuses.

    Raises:
        FormatError: The adapter's config and its tensors contradict each other.
        MismatchError: The adapter does not fit the base.
    """
    placed = place_adapter(adapter, base)
    patches = patches_of(placed.placements, lenient=lenient)
    replaced = replacements(adapter, base, patches.keys(), reader, lenient=lenient)
    return Changes(len(placed.placements), placed.inventory, patches, replaced)

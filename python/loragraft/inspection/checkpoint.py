"""A checkpoint, as its headers describe it."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from loragraft.architecture.families import family_of
from loragraft.architecture.modules import STACKED_EXPERTS, take_inventory
from loragraft.inspection.dtype_counts import dtype_counts
from loragraft.number_formats import WEIGHT_DTYPES
from loragraft.report.inspection import Inspection, KindCount, Subject

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loragraft.architecture.modules import Inventory, LinearModule
    from loragraft.checkpoint import Checkpoint


def inspect_checkpoint(checkpoint: Checkpoint) -> Inspection:
    """Return what a checkpoint consists of."""
    inventory = take_inventory(checkpoint)
    config = checkpoint.config or {}
    model_type, architectures = config.get("model_type"), config.get("architectures")
    entries = checkpoint.tensors.values()
    return Inspection(
        path=checkpoint.reference,
        kind=Subject.CHECKPOINT,
        tensors=len(entries),
        parameters=sum(entry.parameters for entry in entries),
        bytes=checkpoint.nbytes,
        files=tuple(shard.name for shard in checkpoint.shards),
        dtypes=dtype_counts(entries),
        kinds=_checkpoint_kinds(inventory),
        others=dict(Counter(inventory.others.values()).most_common()),
        layers=len({linear.layer for linear in inventory.linears} - {None}),
        model_type=model_type if isinstance(model_type, str) else None,
        family=family_of(checkpoint.config).name,
        architectures=_strings(architectures),
        problems=tuple(_checkpoint_problems(checkpoint, inventory)),
    )


def _strings(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()


def _checkpoint_kinds(inventory: Inventory) -> tuple[KindCount, ...]:
    groups: dict[tuple[str, str], list[LinearModule]] = {}
    for linear in inventory.linears:
        groups.setdefault((linear.kind, linear.role.value), []).append(linear)
    return tuple(
        KindCount(
            kind=kind,
            role=role,
            modules=len(group),
            shapes=tuple(sorted({linear.shape for linear in group})),
            parameters=sum(math.prod(linear.shape) * len(linear.matrices) for linear in group),
            experts=max(linear.experts for linear in group),
        )
        for (kind, role), group in groups.items()
    )


def _checkpoint_problems(checkpoint: Checkpoint, inventory: Inventory) -> Iterator[str]:
    if checkpoint.config is None:
        yield "There is no config.json: the family is unknown, and names are read by common rules."
    if not inventory.linears:
        yield "No linear layer was found: nothing here can be adapted."
    matrices = [
        checkpoint.tensors[name]
        for name in inventory.others
        if checkpoint.tensors[name].dtype not in WEIGHT_DTYPES
        and len(checkpoint.tensors[name].shape) == 2
    ]
    if matrices:
        kinds = ", ".join(sorted({entry.dtype for entry in matrices}))
        yield (
            f"Matrices stored as {kinds}: {len(matrices)}, such as {matrices[0].name}; loragraft"
            f" computes with {', '.join(WEIGHT_DTYPES)} and leaves them out."
        )
    stacked = sum(why == STACKED_EXPERTS for why in inventory.others.values())
    if inventory.unknown_experts:
        yield f"Its experts are left out: {inventory.unknown_experts}."
    elif stacked:
        yield f"Tensors that hold all experts of a block at once, and are left out: {stacked}."

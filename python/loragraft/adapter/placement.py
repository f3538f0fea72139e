"""Where the modules of an adapter sit in a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from loragraft.errors import MismatchError
from loragraft.number_formats import WEIGHT_DTYPES
from loragraft.wording import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loragraft.adapter.peft import AdapterModule, PeftAdapter
    from loragraft.architecture.modules import Inventory, LinearModule
    from loragraft.checkpoint import Checkpoint

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Placement:
    """An adapter's module and the linear layer of the checkpoint that it changes."""

    module: AdapterModule
    linear: LinearModule


def place_modules(
    adapter: PeftAdapter, checkpoint: Checkpoint, inventory: Inventory
) -> tuple[Placement, ...]:
    """Find the linear layer of every adapter module, in the order of the checkpoint.

    Args:
        adapter: The adapter.
        checkpoint: The checkpoint that it is applied to.
        inventory: What ``checkpoint`` consists of.

    Raises:
        MismatchError: A module that the checkpoint lacks, that is no linear layer there, whose
            weights are in a format loragraft does not compute with, or whose shape differs.
    """
    linears = {linear.name: linear for linear in inventory.linears}
    missing = [module.name for module in adapter.modules if module.name not in linears]
    if missing:
        raise _missing(adapter, checkpoint, inventory, missing)
    modules = {module.name: module for module in adapter.modules}
    placements = tuple(
        Placement(modules[linear.name], linear)
        for linear in inventory.linears
        if linear.name in modules
    )
    for placement in placements:
        _check(placement, checkpoint)
    return placements


def _missing(
    adapter: PeftAdapter, checkpoint: Checkpoint, inventory: Inventory, names: Sequence[str]
) -> MismatchError:
    listed = ", ".join(
        name + _reason(inventory, f"{name}.weight") for name in sorted(names)[:_SHOWN]
    )
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    made_for = adapter.config.get("base_model_name_or_path")
    advice = f"; the adapter names {shown(str(made_for))} as its base" if made_for else ""
    return MismatchError(
        f"{shown(checkpoint.reference)} has no linear layer for {len(names)} of the"
        f" {len(adapter.modules)} modules of {shown(adapter.directory)}: {listed}{more};"
        f" use the model that the adapter was made for{advice}"
    )


def _reason(inventory: Inventory, tensor: str) -> str:
    return f" ({inventory.others[tensor]})" if tensor in inventory.others else ""


def _check(placement: Placement, checkpoint: Checkpoint) -> None:
    module, linear = placement.module, placement.linear
    shape = (module.lora_B.shape[0], module.lora_A.shape[1])
    if shape != linear.shape:
        raise MismatchError(
            f"module {module.name}: the adapter changes a weight of shape {shape}, but"
            f" {shown(checkpoint.reference)} has {linear.shape} (out, in); use the model that the"
            " adapter was made for"
        )
    dtype = checkpoint.tensors[linear.tensor].dtype
    if dtype not in WEIGHT_DTYPES:
        raise MismatchError(
            f"tensor {linear.tensor} of {shown(checkpoint.reference)} is stored as {dtype}:"
            f" expected one of {', '.join(WEIGHT_DTYPES)}; use a checkpoint that is not quantised"
        )

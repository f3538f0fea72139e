"""Where the modules of an adapter sit in a checkpoint."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from loragraft.architecture.modules import take_inventory
from loragraft.errors import MismatchError
from loragraft.wording import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loragraft.adapter.peft import AdapterModule, PeftAdapter
    from loragraft.architecture.modules import Inventory, LinearModule
    from loragraft.checkpoint import Checkpoint

_SHOWN: Final = 3
_FUSED: Final = ("peft", "peft-legacy")
_ONE_EXPERT: Final = re.compile(r"(^|\.)experts\.\d+\.")


@dataclass(frozen=True, slots=True)
class Placement:
    """An adapter's module and the linear layer of the checkpoint that it changes."""

    module: AdapterModule
    linear: LinearModule


class Placed(NamedTuple):
    """An adapter on a checkpoint.

    Attributes:
        layout: Which modules the experts are, see `take_inventory`.
        inventory: What the checkpoint consists of, in that layout.
        placements: The adapter's modules, in the order of the checkpoint.
    """

    layout: str
    inventory: Inventory
    placements: tuple[Placement, ...]


def layouts_of(adapter: PeftAdapter) -> tuple[str, ...]:
    """Return the layouts of experts that an adapter can be in, the likeliest first.

    Its names tell whether every expert is a module of its own. How experts that share a parameter
    are laid out is in the metadata of loragraft's files. Others leave open which side of the weight
    lora_A belongs to: as PEFT has it since 0.19.1, or up to 0.18.
    """
    if any(_ONE_EXPERT.search(module.name) for module in adapter.modules):
        return ("per-expert",)
    if adapter.layout in _FUSED:
        return (adapter.layout,)
    return _FUSED if any(module.experts for module in adapter.modules) else _FUSED[:1]


def place_adapter(adapter: PeftAdapter, checkpoint: Checkpoint) -> Placed:
    """Find the linear layer of every adapter module, whichever way its experts are laid out.

    Where two layouts are possible the shapes decide; PEFT's present one where both fit.

    Raises:
        MismatchError: See `place_modules`.
        FormatError: The checkpoint cannot be sorted into modules.
    """
    first_error: MismatchError | None = None
    for layout in layouts_of(adapter):
        inventory = take_inventory(checkpoint, layout)
        try:
            placements = place_modules(adapter, checkpoint, inventory)
        except MismatchError as error:
            first_error = first_error or error
        else:
            return Placed(layout, inventory, placements)
    assert first_error is not None
    raise first_error


def place_modules(
    adapter: PeftAdapter, checkpoint: Checkpoint, inventory: Inventory
) -> tuple[Placement, ...]:
    """Find the linear layer of every adapter module, in the order of the checkpoint.

    Args:
        adapter: The adapter.
        checkpoint: The checkpoint that it is applied to.
        inventory: What ``checkpoint`` consists of.

    Raises:
        MismatchError: A module that the checkpoint lacks, that is no linear layer there, or whose
            shape or number of experts differs.
    """
    known = (*inventory.linears, *inventory.embeddings)
    linears = {linear.name: linear for linear in known}
    missing = [module.name for module in adapter.modules if module.name not in linears]
    if missing:
        raise _missing(adapter, checkpoint, inventory, missing)
    modules = {module.name: module for module in adapter.modules}
    placements = tuple(
        Placement(modules[linear.name], linear) for linear in known if linear.name in modules
    )
    for placement in placements:
        _check(placement, checkpoint)
    return placements


def _missing(
    adapter: PeftAdapter, checkpoint: Checkpoint, inventory: Inventory, names: Sequence[str]
) -> MismatchError:
    listed = ", ".join(name + _reason(inventory, name) for name in sorted(names)[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    made_for = adapter.config.get("base_model_name_or_path")
    advice = f"; the adapter names {shown(str(made_for))} as its base" if made_for else ""
    return MismatchError(
        f"{shown(checkpoint.reference)} has no linear layer for {len(names)} of the"
        f" {len(adapter.modules)} modules of {shown(adapter.directory)}: {listed}{more};"
        f" use the model that the adapter was made for{advice}"
    )


def _reason(inventory: Inventory, name: str) -> str:
    why = inventory.others.get(f"{name}.weight") or inventory.others.get(name)
    if inventory.unknown_experts and "experts" in name.split("."):
        why = inventory.unknown_experts
    return f" ({why})" if why else ""


def _check(placement: Placement, checkpoint: Checkpoint) -> None:
    module, linear = placement.module, placement.linear
    # An adapter of one expert looks like that of a weight of its own.
    if max(1, module.experts) != max(1, linear.experts):
        raise MismatchError(
            f"module {module.name}: the adapter has factors of {max(1, module.experts)} experts,"
            f" but {shown(checkpoint.reference)} has {max(1, linear.experts)}; use the model that"
            " the adapter was made for"
        )
    shape = (module.lora_B.shape[0], module.lora_A.shape[1])
    if linear.address.swapped:
        shape = shape[::-1]
    if shape != linear.shape:
        raise MismatchError(
            f"module {module.name}: the adapter changes a weight of shape {shape}, but"
            f" {shown(checkpoint.reference)} has {linear.shape} (out, in); use the model that the"
            " adapter was made for"
        )

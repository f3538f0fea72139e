"""The modules of the target that may carry what is distilled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from loragraft.architecture.selection import select
from loragraft.comparison.places import main_stack, place_of
from loragraft.errors import NothingToAdaptError
from loragraft.transferring.stream.side import AROUND, MIDDLE, WRITERS

if TYPE_CHECKING:
    from collections.abc import Collection

    from loragraft.architecture import LinearModule
    from loragraft.transferring.plan import TransferPlan

#: Modules tried at most.
TRIED: Final = 2
#: The output of the MLP comes last in a block.
_ORDER: Final = ("o_proj", "down_proj")


class Carrier(NamedTuple):
    """A module that writes to the residual stream.

    Attributes:
        linear: The module.
        after: Name of the norm between it and the stream, as in Gemma 2; empty without one.
    """

    linear: LinearModule
    after: str


def carriers(plan: TransferPlan) -> list[Carrier]:
    """Return the modules to choose from, the one nearest to the head first.

    Raises:
        NothingToAdaptError: The selection leaves none.
    """
    inventory = plan.inventory
    chosen, _ = select(inventory, plan.options.selection)
    stack = main_stack(inventory.linears)
    found = [
        linear
        for linear in chosen
        if linear.kind in WRITERS
        and linear.layer is not None
        and place_of(linear).stack == stack
        and not linear.experts
        and not linear.address.parameter
    ]
    if not found:
        raise NothingToAdaptError(
            "distill writes to output projections of the blocks"
            f" ({', '.join(_ORDER)}), of which the target has none that --target-modules, --exclude"
            " and --layers leave: change these options"
        )
    found.sort(key=lambda linear: (linear.layer or 0, _ORDER.index(linear.kind)), reverse=True)
    return [Carrier(linear, _after(linear, plan.target.tensors)) for linear in found]


def _after(linear: LinearModule, tensors: Collection[str]) -> str:
    """Return the norm that follows a module in its block."""
    module = linear.tensor.removesuffix(".weight").rpartition(f".{linear.layer}.")[0]
    stored = f"{module}.{linear.layer}."
    if not any(f"{stored}{name}.weight" in tensors for name in AROUND):
        return ""
    block = linear.name.rpartition(f"{linear.layer}.")[0] + f"{linear.layer}."
    return block + (AROUND[1] if linear.kind == "down_proj" else MIDDLE)

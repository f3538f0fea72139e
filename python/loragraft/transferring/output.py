"""Writes a transferred adapter as a directory that PEFT loads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loragraft.adapter.peft_config import (
    TENSORS_FILE,
    WrittenModule,
    adapter_config,
    keys_of,
    task_type,
)
from loragraft.architecture.families import family_of
from loragraft.natural_order import natural_key
from loragraft.safetensors_writer import SafetensorsWriter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loragraft.destination import Destination
    from loragraft.transferring.factors import WrittenFactors
    from loragraft.transferring.plan import TransferPlan


def write_tensors(destination: Destination, written: Sequence[WrittenFactors]) -> int:
    """Write the factors in natural order of their names; return the size of the file.

    Raises:
        FormatError: The disk is full or fails.
    """
    ordered = sorted(written, key=lambda one: natural_key(one.target.name))
    keys = keys_of(one.target.address for one in ordered)
    layout = []
    for one in ordered:
        key_a, key_b = keys[one.target.address]
        layout += [(key_a, one.dtype, one.lora_A.shape), (key_b, one.dtype, one.lora_B.shape)]
    path = destination.file(TENSORS_FILE)
    with SafetensorsWriter(path, layout, {"format": "pt"}) as writer:
        for one in ordered:
            key_a, key_b = keys[one.target.address]
            writer.write(key_a, one.lora_A)
            writer.write(key_b, one.lora_B)
        return writer.nbytes


def config_of(plan: TransferPlan, written: Sequence[WrittenFactors]) -> dict[str, Any]:
    """Return the adapter_config.json: rank and alpha of most modules, the others as patterns."""
    modules = [
        WrittenModule(
            one.target.name, one.rank, one.alpha, one.target.transposed, one.target.address
        )
        for one in written
    ]
    rank = max(module.rank for module in modules)
    alphas = [module.alpha for module in modules if module.rank == rank]
    family = family_of(plan.target.config)
    return adapter_config(
        modules,
        base_model=plan.target.reference,
        rank=rank,
        alpha=max(alphas, key=alphas.count),
        all_linear_names=plan.inventory.paths,
        task_type=task_type(plan.target.config),
        has_experts=bool(family.experts),
        knows_all=not family.splits,
    )

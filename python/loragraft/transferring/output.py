"""Writes a transferred adapter as a directory that PEFT loads."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from loragraft.adapter.peft_config import (
    CONFIG_FILE,
    RESIDUAL_FILE,
    TENSORS_FILE,
    WrittenModule,
    adapter_config,
    keys_of,
    task_type,
)
from loragraft.architecture.families import family_of
from loragraft.atomic_file import write_text_atomic
from loragraft.errors import FormatError
from loragraft.natural_order import natural_key
from loragraft.safetensors_writer import SafetensorsWriter
from loragraft.wording import reason, shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loragraft.destination import Destination
    from loragraft.transferring.factors import WrittenFactors
    from loragraft.transferring.plan import TransferPlan

REPORT_FILE: Final = "report.json"
CARD_FILE: Final = "README.md"


def retire(destination: Destination) -> None:
    """Remove the documents of an adapter that is about to be replaced, its config first.

    Raises:
        FormatError: A file cannot be removed.
    """
    for name in (CONFIG_FILE, REPORT_FILE, CARD_FILE, RESIDUAL_FILE):
        path = destination.directory / name
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise FormatError(f"{shown(path)}: cannot be removed: {reason(error)}") from error


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


def write_documents(
    destination: Destination,
    config: Mapping[str, Any],
    report: Mapping[str, Any] | None,
    card: str,
) -> None:
    """Write the report, the model card, and last the config, which marks the adapter complete."""
    if report is not None:
        write_text_atomic(destination.file(REPORT_FILE), dump(report))
    write_text_atomic(destination.file(CARD_FILE), card)
    write_text_atomic(destination.file(CONFIG_FILE), dump(config))


def dump(data: object) -> str:
    """Write data as JSON; NaN and Inf, which JSON lacks, are errors."""
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

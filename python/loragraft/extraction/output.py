"""Writes a finished extraction as an adapter directory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loragraft.adapter.peft_config import (
    LAYOUT_KEY,
    TENSORS_FILE,
    WrittenModule,
    adapter_config,
    keys_of,
    task_type,
)
from loragraft.adapter.whole_plan import read_spans
from loragraft.architecture.families import family_of
from loragraft.extraction.factors import peft_shape
from loragraft.natural_order import natural_key
from loragraft.safetensors_writer import SafetensorsWriter
from loragraft.tensor_bytes import TensorBytes

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from loragraft.destination import Destination
    from loragraft.extraction.carried import Carried
    from loragraft.extraction.choice import Choice, Written
    from loragraft.extraction.factors import FactorStore
    from loragraft.extraction.plan import ExtractionPlan


def write_tensors(
    path: Path, plan: ExtractionPlan, choice: Choice, store: FactorStore, carried: Carried
) -> int:
    """Write the factors of every chosen module, in natural order of their names, and the rest.

    Returns:
        The size of the file in bytes.
    """
    written = sorted(choice.written(plan), key=lambda one: natural_key(one.module.linear.name))
    layout: list[tuple[str, str, tuple[int, ...]]] = []
    keys = keys_of(one.module.linear.address for one in written)
    for number, module, rank, _ in written:
        key_a, key_b = keys[module.linear.address]
        (out, into), code = peft_shape(module), store.dtype(number)
        width = rank * len(module.unit.base)
        layout += [(key_a, code, (width, into)), (key_b, code, (out, width))]
    layout += [(tensor.key, tensor.dtype, tensor.shape) for tensor in carried.whole.tensors]
    notes = {"format": "pt"}
    if any(one.module.linear.experts for one in written):
        notes[LAYOUT_KEY] = plan.options.layout
    with SafetensorsWriter(path, layout, notes) as writer:
        for one in written:
            key_a, key_b = keys[one.module.linear.address]
            lora_a, lora_b = _factors(store, one)
            writer.write(key_a, lora_a)
            writer.write(key_b, lora_b)
        with TensorBytes() as reader:
            for tensor in carried.whole.tensors:
                for start, part in read_spans(reader, tensor):
                    writer.write_part(tensor.key, part, start)
        return writer.nbytes


def _factors(
    store: FactorStore, one: Written
) -> tuple[bytes, bytes] | tuple[NDArray[np.generic], NDArray[np.generic]]:
    found = store.as_computed(one.number, one.module, one.rank) if one.kept == one.rank else None
    if found is not None:
        return found
    from loragraft.extraction.assembly import assemble  # noqa: PLC0415 -- needs NumPy

    return assemble(store, one)


def config_of(plan: ExtractionPlan, choice: Choice, carried: Carried) -> dict[str, Any]:
    """Return the adapter_config.json of an extraction.

    The scaling is the same in every module, so that engines which know one global alpha / r
    scale modules of smaller rank rightly too.
    """
    scaling = plan.options.scaling
    written = [
        WrittenModule(
            module.linear.name,
            rank,
            scaling * rank,
            module.linear.transposed and not module.linear.address.embedding,
            module.linear.address,
        )
        for _, module, rank, _ in choice.written(plan)
    ]
    rank = max(module.rank for module in written)
    family = family_of(plan.base.config)
    config = adapter_config(
        written,
        base_model=plan.base.reference,
        rank=rank,
        alpha=scaling * rank,
        all_linear_names=plan.inventory.paths,
        task_type=task_type(plan.base.config),
        has_experts=bool(family.experts),
        knows_all=not family.splits,
    )
    return {**config, **carried.whole.config}


def tensors_path(destination: Destination) -> Path:
    """Return where the adapter's tensors go."""
    return destination.file(TENSORS_FILE)

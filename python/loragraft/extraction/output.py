"""Writes a finished extraction as an adapter directory."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from loragraft.adapter.peft_config import (
    CONFIG_FILE,
    LAYOUT_KEY,
    RESIDUAL_FILE,
    TENSORS_FILE,
    WrittenModule,
    adapter_config,
    keys_of,
    task_type,
)
from loragraft.adapter.whole_plan import read_spans
from loragraft.architecture.families import family_of
from loragraft.atomic_file import write_text_atomic
from loragraft.errors import FormatError
from loragraft.extraction.factors import peft_shape
from loragraft.natural_order import natural_key
from loragraft.report.card import model_card
from loragraft.safetensors_writer import SafetensorsWriter
from loragraft.tensor_bytes import TensorBytes
from loragraft.wording import reason, shown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from loragraft.destination import Destination
    from loragraft.extraction.carried import Carried
    from loragraft.extraction.choice import Choice, Written
    from loragraft.extraction.factors import FactorStore
    from loragraft.extraction.plan import ExtractionPlan
    from loragraft.report.model import Report


#: Beside the tensors and the config; they tell of one run and must not outlive its adapter.
_REPORT_FILE: Final = "report.json"
_CARD_FILE: Final = "README.md"


def retire(destination: Destination) -> None:
    """Remove the documents of an adapter that is about to be replaced, its config first.

    Raises:
        FormatError: A file cannot be removed.
    """
    for name in (CONFIG_FILE, _REPORT_FILE, _CARD_FILE, RESIDUAL_FILE):
        path = destination.directory / name
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise FormatError(f"{shown(path)}: cannot be removed: {reason(error)}") from error


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


def write_documents(
    destination: Destination, config: Mapping[str, Any], report: Report, *, with_report: bool
) -> None:
    """Write the report, the model card, and last the config, which marks the adapter complete."""
    if with_report:
        write_text_atomic(destination.file(_REPORT_FILE), dump(report.to_json()))
    write_text_atomic(destination.file(_CARD_FILE), model_card(report, config))
    write_text_atomic(destination.file(CONFIG_FILE), dump(config))


def tensors_path(destination: Destination) -> Path:
    """Return where the adapter's tensors go."""
    return destination.file(TENSORS_FILE)


def dump(data: object) -> str:
    """Write data as JSON; NaN and Inf, which JSON lacks, are errors."""
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

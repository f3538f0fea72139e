"""Writes a finished extraction as an adapter directory."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from loragraft.adapter.peft_config import (
    CONFIG_FILE,
    TENSORS_FILE,
    WrittenModule,
    adapter_config,
    factor_keys,
    task_type,
)
from loragraft.atomic_file import write_text_atomic
from loragraft.errors import FormatError
from loragraft.natural_order import natural_key
from loragraft.report.card import model_card
from loragraft.safetensors_writer import SafetensorsWriter
from loragraft.wording import reason, shown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from loragraft.destination import Destination
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
    for name in (CONFIG_FILE, _REPORT_FILE, _CARD_FILE):
        path = destination.directory / name
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise FormatError(f"{shown(path)}: cannot be removed: {reason(error)}") from error


def write_tensors(path: Path, store: FactorStore) -> int:
    """Write the factors of every module, in natural order of their names.

    Returns:
        The size of the file in bytes.
    """
    layout, sources = [], []
    for name in sorted(store.modules, key=natural_key):
        stored = store.modules[name]
        key_a, key_b = factor_keys(name)
        layout += [
            (key_a, stored.dtype, (stored.rank, stored.columns)),
            (key_b, stored.dtype, (stored.rows, stored.rank)),
        ]
        sources += [(key_a, stored.lora_a), (key_b, stored.lora_b)]
    with SafetensorsWriter(path, layout, {"format": "pt"}) as writer:
        for key, extent in sources:
            writer.write(key, store.read(extent))
        return writer.nbytes


def config_of(plan: ExtractionPlan, report: Report) -> dict[str, Any]:
    """Return the adapter_config.json of an extraction.

    The scaling is the same in every module, so that engines which know one global alpha / r
    scale modules of smaller rank rightly too.
    """
    transposed = {module.linear.name: module.linear.transposed for module in plan.modules}
    written = [
        WrittenModule(module.name, module.rank, module.alpha, transposed[module.name])
        for module in report.modules
    ]
    rank = max(module.rank for module in written)
    return adapter_config(
        written,
        base_model=plan.base.reference,
        rank=rank,
        alpha=plan.options.scaling * rank,
        all_linear_names=plan.known_linears,
        task_type=task_type(plan.base.config),
    )


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

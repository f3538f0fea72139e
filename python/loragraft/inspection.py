"""`inspect`: what a checkpoint or an adapter consists of, from headers and small products."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

from loragraft.adapter.peft import read_adapter
from loragraft.adapter.peft_config import RESIDUAL_FILE
from loragraft.adapter.restored import kinds_of, restored_by
from loragraft.architecture.families import family_of
from loragraft.architecture.modules import STACKED_EXPERTS, take_inventory
from loragraft.checkpoint import open_checkpoint
from loragraft.number_formats import WEIGHT_DTYPES
from loragraft.report.inspection import (
    AdaptedModule,
    DTypeCount,
    Inspection,
    KindCount,
    Subject,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from loragraft.adapter.peft import AdapterModule, PeftAdapter
    from loragraft.architecture.modules import Inventory, LinearModule
    from loragraft.checkpoint import Checkpoint, TensorEntry

_ADAPTER_FILES: Final = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
_BLOCK: Final = re.compile(r"\.(\d+)(?:\.|$)")
_ONE_EXPERT: Final = re.compile(r"(^|\.)experts\.\d+\.")
_SHOWN: Final = 3


def inspect(path: str | os.PathLike[str]) -> Inspection:
    """Look into a checkpoint or an adapter.

    Of a checkpoint only headers are read. Of an adapter the factors are, one module at a time,
    for the norms: ‖scaling·B·A‖² = scaling²·⟨BᵀB, AAᵀ⟩ in float64, which costs (out + in)·r²
    and never forms the product. Its absolute error is about 1e-8·|scaling|·‖B‖·‖A‖, so a norm far
    below that of its factors is not resolved.

    Args:
        path: A directory, a .safetensors file or a Hub id. A directory with the files of a PEFT
            adapter is one, whatever else it holds.

    Raises:
        FormatError: It cannot be read.
    """
    place = Path(path)
    if place.name in _ADAPTER_FILES:
        place = place.parent
    if any((place / name).exists() for name in _ADAPTER_FILES):
        return _inspect_adapter(os.fspath(path), read_adapter(place))
    return _inspect_checkpoint(open_checkpoint(path))


def _inspect_checkpoint(checkpoint: Checkpoint) -> Inspection:
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
        dtypes=_dtypes(entries),
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


def _dtypes(entries: Iterable[TensorEntry]) -> tuple[DTypeCount, ...]:
    groups: dict[str, list[TensorEntry]] = {}
    for entry in entries:
        groups.setdefault(entry.dtype, []).append(entry)
    counts = [
        DTypeCount(
            dtype,
            len(group),
            sum(entry.parameters for entry in group),
            sum(entry.nbytes for entry in group),
        )
        for dtype, group in groups.items()
    ]
    return tuple(sorted(counts, key=lambda count: (-count.bytes, count.dtype)))


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


def _inspect_adapter(path: str, adapter: PeftAdapter) -> Inspection:
    modules = _adapted_modules(adapter)
    entries = [entry for module in adapter.modules for entry in (module.lora_A, module.lora_B)]
    entries += adapter.other_tensors.values()
    base = adapter.config.get("base_model_name_or_path")
    return Inspection(
        path=path,
        kind=Subject.ADAPTER,
        tensors=len(entries),
        parameters=sum(entry.parameters for entry in entries),
        bytes=sum(entry.nbytes for entry in entries),
        files=tuple(sorted({entry.path.name for entry in entries})),
        dtypes=_dtypes(entries),
        kinds=_adapter_kinds(adapter, modules),
        others=dict(kinds_of(adapter)),
        layers=len({module.layer for module in modules} - {None}),
        base_model=base if isinstance(base, str) else None,
        ranks=dict(sorted(Counter(module.rank for module in modules).items())),
        modules=modules,
        residual_bytes=_size(adapter.directory / RESIDUAL_FILE),
        problems=tuple(_adapter_problems(adapter, modules)),
    )


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _adapted_modules(adapter: PeftAdapter) -> tuple[AdaptedModule, ...]:
    from loragraft.adapter.norm import norms  # noqa: PLC0415 -- NumPy, for adapters alone

    found = []
    for module, norm in zip(adapter.modules, norms(adapter.modules), strict=True):
        block = _BLOCK.search(module.name)
        dtypes = {module.lora_A.dtype: None, module.lora_B.dtype: None}
        found.append(
            AdaptedModule(
                name=module.name,
                kind=_kind(module),
                layer=int(block[1]) if block else None,
                shape=(module.lora_B.shape[0], module.lora_A.shape[1]),
                rank=module.rank,
                alpha=module.alpha,
                scaling=module.scaling,
                dtype="/".join(dtypes),
                norm=norm,
                experts=module.experts,
            )
        )
    return tuple(found)


def _kind(module: AdapterModule) -> str:
    """Return the last component of a path, such as ``q_proj``, with ``experts.`` for experts'."""
    last = module.name.rpartition(".")[2]
    is_expert = module.experts > 0 or _ONE_EXPERT.search(module.name) is not None
    return f"experts.{last}" if is_expert else last


def _adapter_kinds(adapter: PeftAdapter, modules: Sequence[AdaptedModule]) -> tuple[KindCount, ...]:
    numbers = {m.name: m.lora_A.parameters + m.lora_B.parameters for m in adapter.modules}
    groups: dict[str, list[AdaptedModule]] = {}
    for module in modules:
        groups.setdefault(module.kind, []).append(module)
    return tuple(
        KindCount(
            kind=kind,
            role="",
            modules=len(group),
            shapes=tuple(sorted({module.shape for module in group})),
            parameters=sum(numbers[module.name] for module in group),
            experts=max(module.experts for module in group),
        )
        for kind, group in groups.items()
    )


def _adapter_problems(adapter: PeftAdapter, modules: Sequence[AdaptedModule]) -> Iterator[str]:
    broken = [module.name for module in modules if module.norm is None]
    if broken:
        yield f"Modules with NaN or Inf: {len(broken)}, such as {broken[0]}."
    idle = [module.name for module in modules if module.norm == 0.0]
    if idle:
        yield f"Modules that change nothing (B·A is 0): {len(idle)}, such as {idle[0]}."
    strays = sorted(restored_by(adapter).strays)
    if strays:
        yield (
            f"Tensors that are no LoRA factors: {len(strays)}, such as"
            f" {', '.join(strays[:_SHOWN])}; PEFT loads them over the base's, or not at all, and"
            " loragraft does not merge them."
        )
    if len(adapter.other_tensors) > len(strays):
        yield (
            "It carries tensors beside its factors, which PEFT loads and merge applies; vLLM"
            " refuses such adapters."
        )
    if len({module.rank for module in modules}) > 1:
        yield "Ranks differ: serving engines reserve the largest for every module."
    if len({module.alpha for module in modules}) > 1:
        yield (
            "Alpha differs between modules: llama.cpp's converter keeps one alpha and would scale"
            " the others wrongly."
        )
    if adapter.config.get("use_rslora"):
        yield (
            "It uses rsLoRA (scaling alpha / √rank): llama.cpp's converter does not know it and"
            " would scale it wrongly."
        )

"""An adapter in PEFT's format: ranks, scaling, norms."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Final

from loragraft.adapter.peft_config import RESIDUAL_FILE
from loragraft.adapter.restored import kinds_of, restored_by
from loragraft.inspection.adapted_modules import kind_counts, odd_norms
from loragraft.inspection.dtype_counts import dtype_counts
from loragraft.report.inspection import AdaptedModule, Inspection, Subject
from loragraft.tensor_entry import TensorEntry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from loragraft.adapter.peft import AdapterModule, PeftAdapter
    from loragraft.safetensors_header import Header

_BLOCK: Final = re.compile(r"\.(\d+)(?:\.|$)")
_ONE_EXPERT: Final = re.compile(r"(^|\.)experts\.\d+\.")
_SHOWN: Final = 3


def inspect_adapter(path: str, adapter: PeftAdapter) -> Inspection:
    """Return what an adapter consists of, and what may surprise whoever loads it."""
    modules = _adapted_modules(adapter)
    entries = [entry for module in adapter.modules for entry in (module.lora_A, module.lora_B)]
    entries += adapter.other_tensors.values()
    base = adapter.config.get("base_model_name_or_path")
    numbers = {m.name: m.lora_A.parameters + m.lora_B.parameters for m in adapter.modules}
    return Inspection(
        path=path,
        kind=Subject.ADAPTER,
        tensors=len(entries),
        parameters=sum(entry.parameters for entry in entries),
        bytes=sum(entry.nbytes for entry in entries),
        files=tuple(sorted({entry.path.name for entry in entries})),
        dtypes=dtype_counts(entries),
        kinds=kind_counts(modules, numbers),
        others=dict(kinds_of(adapter)),
        layers=len({module.layer for module in modules} - {None}),
        base_model=base if isinstance(base, str) else None,
        ranks=dict(sorted(Counter(module.rank for module in modules).items())),
        modules=modules,
        residual_bytes=_size(adapter.directory / RESIDUAL_FILE),
        problems=tuple(_adapter_problems(adapter, modules)),
    )


def inspect_unread(path: str, tensors_file: Path, header: Header, why: str) -> Inspection:
    """Return what is known of an adapter that is not plain LoRA.

    Args:
        path: As it was called.
        tensors_file: The file of its tensors.
        header: Of that file.
        why: Why it is not read further.
    """
    entries = [
        TensorEntry(t.name, t.dtype, t.shape, tensors_file, t.begin, t.end - t.begin)
        for t in header.tensors.values()
    ]
    return Inspection(
        path=path,
        kind=Subject.ADAPTER,
        tensors=len(entries),
        parameters=sum(entry.parameters for entry in entries),
        bytes=sum(entry.nbytes for entry in entries),
        files=(tensors_file.name,),
        dtypes=dtype_counts(entries),
        kinds=(),
        others={},
        layers=0,
        problems=(f"Not looked at further: {why}",),
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


def _adapter_problems(adapter: PeftAdapter, modules: Sequence[AdaptedModule]) -> Iterator[str]:
    yield from odd_norms(modules)
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
            " the others wrongly (loragraft export does not)."
        )
    if adapter.config.get("use_rslora"):
        yield (
            "It uses rsLoRA (scaling alpha / √rank): llama.cpp's converter does not know it and"
            " would scale it wrongly (loragraft export does not)."
        )

"""Models and adapters in GGUF files, under ggml's names."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import TYPE_CHECKING, Final

from loragraft.adapter.gguf.factors import read_factors
from loragraft.adapter.norm import norm_of
from loragraft.ggml.family import family_of_arch
from loragraft.inspection.adapted_modules import kind_counts, odd_norms
from loragraft.inspection.dtype_counts import dtype_counts
from loragraft.report.inspection import AdaptedModule, Inspection, KindCount, Subject
from loragraft.tensor_entry import TensorEntry
from loragraft.tensor_reader import TensorReader
from loragraft.wording import quoted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from loragraft.adapter.gguf.reading import GgufAdapter, GgufPair
    from loragraft.ggml.header import GgufHeader, GgufTensor

_BLOCK: Final = re.compile(r"blk\.([0-9]+)\.(.+)\.weight")
_SHOWN: Final = 3


def inspect_gguf_model(path: str, place: Path, header: GgufHeader) -> Inspection:
    """Return what a model's GGUF file consists of, from its header alone."""
    entries = [
        TensorEntry(t.name, t.type, t.shape, place, t.begin, t.end - t.begin)
        for t in header.tensors.values()
    ]
    matrices = [tensor for tensor in header.tensors.values() if _is_matrix(tensor)]
    arch = header.text("general.architecture")
    others = Counter(_what(tensor) for tensor in header.tensors.values() if not _is_matrix(tensor))
    return Inspection(
        path=path,
        kind=Subject.CHECKPOINT,
        tensors=len(entries),
        parameters=sum(entry.parameters for entry in entries),
        bytes=sum(entry.nbytes for entry in entries),
        files=(place.name,),
        dtypes=dtype_counts(entries),
        kinds=_kinds(matrices),
        others=dict(others.most_common()),
        layers=len({match[1] for t in matrices if (match := _BLOCK.fullmatch(t.name))}),
        model_type=arch or None,
        family="ggml",
        problems=tuple(_model_problems(header, matrices, arch)),
    )


def _is_matrix(tensor: GgufTensor) -> bool:
    return len(tensor.shape) in {2, 3} and _BLOCK.fullmatch(tensor.name) is not None


def _what(tensor: GgufTensor) -> str:
    if "norm" in tensor.name:
        return "norm"
    if tensor.name in {"token_embd.weight", "output.weight"}:
        return "embedding" if tensor.name.startswith("token") else "head"
    return "bias" if tensor.name.endswith(".bias") else "other"


def _kinds(matrices: list[GgufTensor]) -> tuple[KindCount, ...]:
    groups: dict[str, list[GgufTensor]] = {}
    for tensor in matrices:
        match = _BLOCK.fullmatch(tensor.name)
        groups.setdefault(match[2] if match else tensor.name, []).append(tensor)
    return tuple(
        KindCount(
            kind=kind,
            role="",
            modules=len(found),
            shapes=tuple(sorted({(t.shape[-2], t.shape[-1]) for t in found})),
            parameters=sum(math.prod(t.shape) for t in found),
            experts=max(t.shape[0] if len(t.shape) == 3 else 0 for t in found),
        )
        for kind, found in groups.items()
    )


def _model_problems(header: GgufHeader, matrices: list[GgufTensor], arch: str) -> Iterator[str]:
    files = header.metadata.get("split.count", 1)
    if type(files) is int and files > 1:
        yield f"It is one of {files} files; the others are not looked at."
    family = family_of_arch(arch, has_experts=any(len(t.shape) == 3 for t in matrices))
    if family is None:
        yield f"The architecture {quoted(arch)} is not proven: no adapter is written for it."
    coarse = Counter(t.type for t in matrices if t.type not in {"F32", "F16", "BF16", "Q8_0"})
    if coarse:
        kinds = ", ".join(kind for kind, _ in coarse.most_common())
        yield (
            f"Weights stored as {kinds}: an adapter works on it, but extract needs F32, F16, BF16"
            " or Q8_0."
        )


def inspect_gguf_adapter(path: str, adapter: GgufAdapter) -> Inspection:
    """Return what a GGUF adapter consists of."""
    with TensorReader() as reader:
        modules = tuple(_module(reader, pair, adapter.alpha) for pair in adapter.pairs.values())
    entries = [entry for pair in adapter.pairs.values() for entry in (pair.a, pair.b)]
    entries += adapter.ignored
    numbers = {name: p.a.parameters + p.b.parameters for name, p in adapter.pairs.items()}
    return Inspection(
        path=path,
        kind=Subject.ADAPTER,
        tensors=len(entries),
        parameters=sum(entry.parameters for entry in entries),
        bytes=sum(entry.nbytes for entry in entries),
        files=(adapter.path.name,),
        dtypes=dtype_counts(entries),
        kinds=kind_counts(modules, numbers),
        others={"norm": len(adapter.ignored)} if adapter.ignored else {},
        layers=len({module.layer for module in modules} - {None}),
        model_type=adapter.arch or None,
        family="ggml",
        ranks=dict(sorted(Counter(module.rank for module in modules).items())),
        modules=modules,
        problems=tuple(_adapter_problems(adapter, modules)),
    )


def _module(reader: TensorReader, pair: GgufPair, alpha: float) -> AdaptedModule:
    match = _BLOCK.fullmatch(pair.name)
    factors = (read_factors(reader, pair, expert) for expert in range(max(1, pair.experts)))
    dtypes = {pair.a.dtype: None, pair.b.dtype: None}
    return AdaptedModule(
        name=pair.name,
        kind=match[2] if match else pair.name.removesuffix(".weight"),
        layer=int(match[1]) if match else None,
        shape=pair.shape,
        rank=pair.rank,
        alpha=alpha or float(pair.rank),
        scaling=pair.scaling,
        dtype="/".join(dtypes),
        norm=norm_of(factors, pair.scaling),
        experts=pair.experts,
    )


def _adapter_problems(adapter: GgufAdapter, modules: tuple[AdaptedModule, ...]) -> Iterator[str]:
    yield from odd_norms(modules)
    if adapter.ignored:
        names = ", ".join(entry.name for entry in adapter.ignored[:_SHOWN])
        yield f"Tensors that llama.cpp loads and ignores: {len(adapter.ignored)}, such as {names}."

"""Adapters of random factors with ranks, alphas and dtypes of all sorts, and what they change."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import ml_dtypes
import numpy as np
import torch
from safetensors.torch import save_file

import expert_adapters
from loragraft.adapter.packing import pack
from loragraft.adapter.peft_config import (
    CONFIG_FILE,
    LAYOUT_KEY,
    TENSORS_FILE,
    WrittenModule,
    adapter_config,
    keys_of,
    task_type,
)
from loragraft.architecture.modules import take_inventory
from loragraft.checkpoint import open_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from loragraft.architecture.modules import LinearModule

    Array = np.ndarray[Any, Any]

DTYPES: dict[str, Any] = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
_TORCH = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_OWN_NAMES = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}
_ONE = re.compile(r"(.*\.experts)\.(\d+)\.(\w+)")


class Change(NamedTuple):
    """What an adapter does to a module, in float64.

    Attributes:
        delta: scaling·B·A, (experts, out, in).
        size: scaling·|B|·|A|, which roundings are measured by.
    """

    delta: Array
    size: Array


def modules_of(base: Path, layout: str = "peft") -> tuple[LinearModule, ...]:
    """Linear layers, and the embedding where nothing else is the same matrix."""
    checkpoint = open_checkpoint(base)
    inventory = take_inventory(checkpoint, layout)
    tied = (checkpoint.config or {}).get("tie_word_embeddings", True)
    return (*inventory.linears, *(() if tied else inventory.embeddings))


def mixed_ranks(number: int) -> int:
    return (2, 5, 3)[number % 3]


def write(
    directory: Path,
    base: Path,
    linears: Sequence[LinearModule],
    *,
    rank: Callable[[int], int] = mixed_ranks,
    scaling: Callable[[int], float] = lambda number: (0.5, 2.0, -1.25, 1.0)[number % 4],
    dtype: str = "F32",
    layout: str = "peft",
    rslora: bool = False,
) -> dict[str, Change]:
    """Write an adapter as loragraft does; rank and scaling of each module by its number."""
    rng = np.random.default_rng(4)
    changes, tensors, written = {}, {}, []
    keys = keys_of(linear.address for linear in linears)
    for number, linear in enumerate(linears):
        own, (out, into) = rank(number), linear.shape
        factors = [
            (_random(rng, (out, own), dtype), _random(rng, (own, into), dtype))
            for _ in range(max(1, linear.experts))
        ]
        packed = pack(factors, swapped=linear.address.swapped)
        for key, value in zip(keys[linear.address], packed, strict=True):
            tensors[key] = torch.from_numpy(value).to(_TORCH[dtype])
        factor = scaling(number)
        wide = [(b.astype(np.float64), a.astype(np.float64)) for b, a in factors]
        changes[linear.name] = Change(
            np.stack([factor * (b @ a) for b, a in wide]),
            np.stack([abs(factor) * (abs(b) @ abs(a)) for b, a in wide]),
        )
        alpha = factor * (own**0.5 if rslora else own)
        plain = linear.transposed and not linear.address.embedding
        written.append(WrittenModule(linear.name, own, alpha, plain, linear.address))
    config = _config(base, written) | ({"use_rslora": True} if rslora else {})
    directory.mkdir(parents=True)
    save_file(tensors, directory / TENSORS_FILE, metadata={"format": "pt", LAYOUT_KEY: layout})
    (directory / CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")
    return changes


def _random(rng: np.random.Generator, shape: tuple[int, int], dtype: str) -> Array:
    """Numbers that the dtype has, in float32."""
    return (0.3 * rng.standard_normal(shape)).astype(DTYPES[dtype]).astype(np.float32)


def _config(base: Path, written: list[WrittenModule]) -> dict[str, Any]:
    most = max(written, key=lambda module: module.rank)
    return adapter_config(
        written,
        base_model=str(base),
        rank=most.rank,
        alpha=most.alpha,
        all_linear_names=expert_adapters.known_modules(base),
        task_type=task_type(open_checkpoint(base).config),
    )


def as_files(changes: Mapping[str, Array], model_type: str) -> dict[str, Array]:
    """Changes of modules in memory as tensors of the checkpoint's files, [out, in] or [E, out, in].

    Of experts the files have one tensor each, but those of gpt-oss, which are [E, in, out].
    """
    found: dict[str, Array] = {}
    for name, delta in changes.items():
        stem, _, last = name.rpartition(".")
        if name.endswith("embed_tokens"):
            found[f"{name}.weight"] = delta[0].T
        elif not stem.endswith("experts"):
            single, key = _ONE.fullmatch(name), name
            if single:
                kind = _OWN_NAMES.get(single[3], single[3])
                key = f"{_stem(single[1], model_type)}.{single[2]}.{kind}"
            found[f"{key}.weight"] = delta[0]
        elif model_type == "gpt_oss":
            found[name] = delta.swapaxes(1, 2)
        else:
            halves = {"down_proj": delta}
            if last == "gate_up_proj":
                halves = dict(zip(("gate_proj", "up_proj"), np.split(delta, 2, 1), strict=True))
            for kind, stack in halves.items():
                for number, one in enumerate(stack):
                    found[f"{_stem(stem, model_type)}.{number}.{kind}.weight"] = one
    return found


def _stem(stem: str, model_type: str) -> str:
    return stem.replace("mlp", "block_sparse_moe") if model_type == "mixtral" else stem

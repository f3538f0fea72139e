"""Adapters of random factors on the experts of tiny models, and other ways to store a model."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file

import moe_models
import tiny_models
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
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from loragraft.architecture.modules import LinearModule

    Array = np.ndarray[Any, Any]

#: Of every block of the tiny models.
EXPERTS = 4
_ONE = re.compile(r"(.*\.experts)\.(\d+)\.(\w+)\.weight")


def build(family: str, directory: Path) -> Path:
    """Save a random model in float32."""
    return moe_models.save(moe_models.make(family), directory)


def modules_of(base: Path, layout: str = "peft") -> tuple[LinearModule, ...]:
    return take_inventory(open_checkpoint(base), layout).linears


def known_modules(base: Path) -> list[str]:
    """Every module that the files tell of."""
    inventory = take_inventory(open_checkpoint(base))
    weights = (name for name in inventory.others if name.endswith(".weight"))
    return [
        *(linear.name for linear in inventory.linears),
        *(name.removesuffix(".weight") for name in weights),
    ]


class RandomAdapter(NamedTuple):
    """Random factors of modules: module -> (B, A) of every expert, and what is multiplied."""

    factors: dict[str, list[tuple[Array, Array]]]
    scaling: float

    def change(self, name: str) -> Array:
        """scaling·B·A, [out, in] or [E, out, in]."""
        deltas = [
            np.float32(self.scaling) * (b.astype(np.float64) @ a) for b, a in self.factors[name]
        ]
        return np.stack(deltas) if len(deltas) > 1 else deltas[0]

    def change_like(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """The change, the way round that a weight in memory is."""
        change = torch.from_numpy(self.change(name)).float()
        if change.shape[-2:] != weight.shape[-2:]:
            change = change.transpose(-1, -2)
        return change.reshape(weight.shape)


def write_adapter(
    directory: Path,
    base: Path,
    linears: Sequence[LinearModule],
    *,
    rank: int = 2,
    ranks: Mapping[str, int] | None = None,
    scaling: float = 1.5,
    layout: str = "peft",
) -> RandomAdapter:
    """Write an adapter of random factors on these modules, as loragraft does."""
    rng = np.random.default_rng(4)
    factors, tensors, written = {}, {}, []
    keys = keys_of(linear.address for linear in linears)
    for linear in linears:
        own = (ranks or {}).get(linear.name, rank)
        out, into = linear.shape
        factors[linear.name] = [
            (
                (0.3 * rng.standard_normal((out, own))).astype(np.float32),
                (0.3 * rng.standard_normal((own, into))).astype(np.float32),
            )
            for _ in range(max(1, linear.experts))
        ]
        packed = pack(factors[linear.name], swapped=linear.address.swapped)
        for key, value in zip(keys[linear.address], packed, strict=True):
            tensors[key] = torch.from_numpy(value)
        written.append(
            WrittenModule(linear.name, own, scaling * own, linear.transposed, linear.address)
        )
    most = max(module.rank for module in written)
    config = adapter_config(
        written,
        base_model=str(base),
        rank=most,
        alpha=scaling * most,
        all_linear_names=known_modules(base),
        task_type=task_type(open_checkpoint(base).config),
    )
    directory.mkdir(parents=True)
    metadata = {"format": "pt", LAYOUT_KEY: layout}
    save_file(tensors, directory / TENSORS_FILE, metadata=metadata)
    (directory / CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")
    return RandomAdapter(factors, scaling)


def fuse(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Stack the experts of a Qwen3-MoE as [E, out, in], as the Hub's Qwen3.5 has them."""
    parts: dict[tuple[str, str], dict[int, torch.Tensor]] = {}
    fused = {}
    for name, value in tensors.items():
        match = _ONE.fullmatch(name)
        if match is None:
            fused[name] = value
        else:
            parts.setdefault((match[1], match[3]), {})[int(match[2])] = value
    stacks = {key: torch.stack([each[e] for e in range(len(each))]) for key, each in parts.items()}
    for stem in {stem for stem, _ in stacks}:
        gate_up = [stacks[stem, "gate_proj"], stacks[stem, "up_proj"]]
        fused[f"{stem}.gate_up_proj"] = torch.cat(gate_up, 1)
        fused[f"{stem}.down_proj"] = stacks[stem, "down_proj"]
    return fused


def store(tensors: Mapping[str, torch.Tensor], out: Path, like: Path) -> Path:
    """Save tensors with the configuration of another checkpoint."""
    out.mkdir()
    save_file(dict(tensors), out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_bytes((like / "config.json").read_bytes())
    return out


def store_fused(directory: Path, out: Path) -> Path:
    """Save a copy of a Qwen3-MoE with its experts fused."""
    return store(fuse(tiny_models.read_tensors(directory)), out, directory)

"""Small models and adapters between which the tests transfer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import lora_files as files
from loragraft.architecture import take_inventory
from loragraft.checkpoint import open_checkpoint
from loragraft.subspaces.cache import SubspaceCache
from loragraft.subspaces.finder import SubspaceFinder
from loragraft.subspaces.rank import SubspaceRank
from loragraft.tensor_reader import TensorReader

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from loragraft.transferring import Transfer
    from loragraft.transferring.report import TransferredModule

    Array = files.Array

ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


def llama(
    directory: Path,
    *,
    seed: int,
    width: int = 64,
    depth: int = 4,
    heads: tuple[int, int] = (4, 2),
    inner: int = 96,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Save a random Llama; ``heads`` are those of queries and of keys and values."""
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=depth,
        num_attention_heads=heads[0],
        num_key_value_heads=heads[1],
        max_position_embeddings=64,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 2:
                    parameter.copy_(torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)
    model.to(dtype).save_pretrained(directory)
    return directory


def wider(directory: Path, *, seed: int) -> Path:
    """A Llama with more layers, a larger width, and more heads than `llama` makes by default."""
    return llama(directory, seed=seed, width=96, depth=6, heads=(6, 3), inner=144)


def matrices(checkpoint: Path) -> dict[str, Array]:
    """Weights of the blocks' linear layers by module name, float64."""
    tensors = files.read_checkpoint(checkpoint)
    return {
        name.removesuffix(".weight"): values.astype(np.float64)
        for name, values in tensors.items()
        if values.ndim == 2 and ".layers." in name
    }


def adapter(
    directory: Path,
    checkpoint: Path,
    *,
    rank: int = 4,
    tails: Sequence[str] = ATTENTION + MLP,
    seed: int = 3,
    size: float = 0.05,
    more: Mapping[str, Any] | None = None,
    **config: Any,
) -> Path:
    """Save an adapter on the modules that end so; ‖B A‖ is ``size`` of the weight's norm."""
    rng = np.random.default_rng(seed)
    factors = {}
    for name, weight in matrices(checkpoint).items():
        if name.endswith(tuple(tails)):
            b = rng.standard_normal((weight.shape[0], rank))
            a = rng.standard_normal((rank, weight.shape[1]))
            b *= size * np.linalg.norm(weight) / np.linalg.norm(b @ a)
            factors[name] = (b.astype(np.float32), a.astype(np.float32))
    return files.write_adapter(directory, factors, more=dict(more or {}), **config)


def moved(checkpoint: Path, out: Path, *, change: float, seed: int = 9) -> Path:
    """Save the checkpoint trained further: every matrix moves a little, by noise."""
    rng = np.random.default_rng(seed)
    tensors = files.read_checkpoint(checkpoint)
    for name, values in tensors.items():
        if values.ndim == 2:
            noise = rng.standard_normal(values.shape)
            noise *= change * np.linalg.norm(values.astype(np.float64)) / np.linalg.norm(noise)
            tensors[name] = (values + noise).astype(np.float32)
    out.mkdir()
    (out / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    files.save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


def subspaces(checkpoint: Path, rank: int) -> dict[str, tuple[Array, Array]]:
    """(U, V) of every linear layer as transfer finds them, widened to float64."""
    inventory = take_inventory(open_checkpoint(checkpoint))
    with TensorReader() as reader:
        finder = SubspaceFinder(reader, SubspaceCache(None), SubspaceRank(rank))
        found = {linear.name: finder.find(linear) for linear in inventory.linears}
    return {name: (s.U.astype(np.float64), s.V.astype(np.float64)) for name, s in found.items()}


def rows(result: Transfer) -> dict[str, TransferredModule]:
    """The report's rows by module of the target."""
    found = {row.name: row for row in result.report.modules}
    assert len(found) == len(result.report.modules)
    return found


def product(pair: tuple[Array, Array]) -> Array:
    """B A in float64."""
    b, a = pair
    return np.asarray(b.astype(np.float64) @ a.astype(np.float64))


def without_layers(checkpoint: Path, out: Path, dropped: set[int]) -> Path:
    """Save a model of some of a Llama's layers, numbered anew."""
    tensors = files.read_checkpoint(checkpoint)
    config = json.loads((checkpoint / "config.json").read_text())
    kept = [layer for layer in range(config["num_hidden_layers"]) if layer not in dropped]
    found = {name: values for name, values in tensors.items() if ".layers." not in name}
    for number, layer in enumerate(kept):
        old, new = f"model.layers.{layer}.", f"model.layers.{number}."
        found |= {
            name.replace(old, new): values
            for name, values in tensors.items()
            if name.startswith(old)
        }
    out.mkdir()
    config["num_hidden_layers"] = len(kept)
    (out / "config.json").write_text(json.dumps(config))
    files.save_file(found, out / "model.safetensors", metadata={"format": "pt"})
    return out

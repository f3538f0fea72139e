"""Pairs of Llama-shaped checkpoints, made once and kept."""

from __future__ import annotations

import json
import shutil
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from loragraft.dtypes import bf16_from_float32, float32_from_bf16
from loragraft.safetensors_writer import SafetensorsWriter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

HIDDEN: Final = 2048
INTERMEDIATE: Final = 8192
HEADS: Final = 32
KEY_VALUE_HEADS: Final = 8
VOCABULARY: Final = 32000
#: Root mean squares: of the weights, of the low-rank change, of the full-rank change.
WEIGHT_RMS: Final = 0.02
CHANGE_RMS: Final = 0.05 * WEIGHT_RMS
NOISE_RMS: Final = 0.01 * WEIGHT_RMS
CHANGE_RANK: Final = 32


@dataclass(frozen=True, slots=True)
class Pair:
    """Two checkpoints of one architecture.

    Attributes:
        name: What to call it in a report.
        base: Directory of the one.
        tuned: Directory of the other.
        layers: Number of blocks.
        parameters: Number of weights in the linear layers of the blocks.
    """

    name: str
    base: Path
    tuned: Path
    layers: int
    parameters: int


def llama_pair(root: Path, layers: int, *, complete: bool = False) -> Pair:
    """Make a bf16 pair with random weights unless it is there already.

    The change of every linear layer is a matrix of rank 32 with column scales k^-1/2 plus a
    fifth as much full-rank noise, rounded with the weights. A layer's tensors depend on its
    number alone, so a deeper pair begins with the shallower one.

    Args:
        root: Where pairs are kept.
        layers: Number of blocks.
        complete: Add embeddings, norms and the head, equal on both sides, so that model
            libraries can load it.
    """
    name = f"llama-{layers}-layer{'-complete' if complete else ''}"
    directory, work = root / name, root / f"{name}.unfinished"
    linears = dict(_linear_shapes(layers))
    if not directory.exists():
        shutil.rmtree(work, ignore_errors=True)
        for side in ("base", "tuned"):
            (work / side).mkdir(parents=True)
            (work / side / "config.json").write_text(json.dumps(_config(layers), indent=2) + "\n")
        _write(work, linears, dict(_other_shapes(layers)) if complete else {})
        work.rename(directory)
    parameters = sum(rows * columns for rows, columns in linears.values())
    return Pair(name, directory / "base", directory / "tuned", layers, parameters)


def _write(
    directory: Path, linears: dict[str, tuple[int, int]], others: dict[str, tuple[int, ...]]
) -> None:
    layout = [(name, "BF16", shape) for name, shape in (linears | others).items()]
    files = [directory / side / "model.safetensors" for side in ("base", "tuned")]
    notes = {"format": "pt"}
    with (
        SafetensorsWriter(files[0], layout, notes) as base,
        SafetensorsWriter(files[1], layout, notes) as tuned,
    ):
        for name, shape in linears.items():
            rng = _generator(name)
            weight = bf16_from_float32(_gaussian(rng, shape, WEIGHT_RMS))
            base.write(name, weight)
            changed = float32_from_bf16(weight) + _change(rng, shape)
            tuned.write(name, bf16_from_float32(changed))
        for name, shape in others.items():
            values = np.ones(shape, np.float32)
            if len(shape) == 2:
                values = _gaussian(_generator(name), shape, WEIGHT_RMS)
            for side in (base, tuned):
                side.write(name, bf16_from_float32(values))


def _generator(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))


def _gaussian(rng: np.random.Generator, shape: tuple[int, ...], rms: float) -> NDArray[np.float32]:
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(rms)


def _change(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float32]:
    scales = np.arange(1, CHANGE_RANK + 1, dtype=np.float32) ** -0.5
    left = _gaussian(rng, (shape[0], CHANGE_RANK), 1.0) * scales
    change = left @ _gaussian(rng, (CHANGE_RANK, shape[1]), 1.0)
    change *= np.float32(CHANGE_RMS) / change.std()
    return change + _gaussian(rng, shape, NOISE_RMS)


def _linear_shapes(layers: int) -> Iterator[tuple[str, tuple[int, int]]]:
    narrow = HIDDEN // HEADS * KEY_VALUE_HEADS
    for layer in range(layers):
        block = f"model.layers.{layer}"
        yield f"{block}.self_attn.q_proj.weight", (HIDDEN, HIDDEN)
        yield f"{block}.self_attn.k_proj.weight", (narrow, HIDDEN)
        yield f"{block}.self_attn.v_proj.weight", (narrow, HIDDEN)
        yield f"{block}.self_attn.o_proj.weight", (HIDDEN, HIDDEN)
        yield f"{block}.mlp.gate_proj.weight", (INTERMEDIATE, HIDDEN)
        yield f"{block}.mlp.up_proj.weight", (INTERMEDIATE, HIDDEN)
        yield f"{block}.mlp.down_proj.weight", (HIDDEN, INTERMEDIATE)


def _other_shapes(layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "model.embed_tokens.weight", (VOCABULARY, HIDDEN)
    for layer in range(layers):
        yield f"model.layers.{layer}.input_layernorm.weight", (HIDDEN,)
        yield f"model.layers.{layer}.post_attention_layernorm.weight", (HIDDEN,)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCABULARY, HIDDEN)


def _config(layers: int) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_VALUE_HEADS,
        "num_hidden_layers": layers,
        "tie_word_embeddings": False,
        "vocab_size": VOCABULARY,
    }

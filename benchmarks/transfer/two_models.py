"""Two models of other shapes, made: their weights, vocabularies and an adapter of each.

The weights have neither the flat spectrum of plain Gaussian noise nor the outliers of real ones:
noise whose rows and columns have log-normal scales (σ = 0.25), and a part of rank 64 whose singular
values fall from twice the edge of that noise as k^-0.3. On weights of SmolLM2-135M
s_k / (rms (√m + √n)) is 1.5 to 2.5 for k = 1, 1.0 for 32 and 0.75 for 128; here 2.0, 1.0 and 0.85.
"""

from __future__ import annotations

import json
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from loragraft.dtypes import bf16_from_float32
from loragraft.safetensors_writer import SafetensorsWriter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

_RMS: Final = 0.02
_SCALES: Final = 0.25
_STRONG: Final = 64
_RANK: Final = 16
_ALPHA: Final = 32
_NORMS: Final = {
    "qwen2": ("input_layernorm", "post_attention_layernorm"),
    "gemma2": (
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    ),
}
#: Tokens that both vocabularies have, about as many as those of Qwen 2.5 and Gemma 2 share.
_SHARED: Final = 80_000


@dataclass(frozen=True, slots=True)
class Model:
    """The shapes of a model, and where it is.

    Attributes:
        kind: ``model_type`` of its configuration.
        hidden: Width of the residual stream.
        inner: Neurons of an MLP.
        layers: Blocks.
        heads: Query heads, and heads of keys and values.
        size: Width of a head.
        vocabulary: Tokens.
    """

    kind: str
    hidden: int
    inner: int
    layers: int
    heads: tuple[int, int]
    size: int
    vocabulary: int

    def linears(self) -> dict[str, tuple[int, int]]:
        """Return the shapes of the linear layers of all blocks."""
        queries, keys = (count * self.size for count in self.heads)
        shapes = {
            "self_attn.q_proj": (queries, self.hidden),
            "self_attn.k_proj": (keys, self.hidden),
            "self_attn.v_proj": (keys, self.hidden),
            "self_attn.o_proj": (self.hidden, queries),
            "mlp.gate_proj": (self.inner, self.hidden),
            "mlp.up_proj": (self.inner, self.hidden),
            "mlp.down_proj": (self.hidden, self.inner),
        }
        return {
            f"model.layers.{layer}.{tail}": shape
            for layer in range(self.layers)
            for tail, shape in shapes.items()
        }

    def config(self) -> dict[str, object]:
        """Return ``config.json``."""
        return {
            "architectures": [f"{self.kind.capitalize()}ForCausalLM"],
            "model_type": self.kind,
            "torch_dtype": "bfloat16",
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_attention_heads": self.heads[0],
            "num_key_value_heads": self.heads[1],
            "head_dim": self.size,
            "num_hidden_layers": self.layers,
            "tie_word_embeddings": True,
            "vocab_size": self.vocabulary,
        }


def qwen(layers: int) -> Model:
    """The shapes of Qwen2.5-1.5B, 28 layers deep."""
    return Model("qwen2", 1536, 8960, layers, (12, 2), 128, 151_936)


def gemma(layers: int) -> Model:
    """The shapes of Gemma-2-2B, 26 layers deep."""
    return Model("gemma2", 2304, 9216, layers, (8, 4), 256, 256_000)


def make_model(model: Model, directory: Path) -> Path:
    """Write a model unless it is there."""
    if (directory / "config.json").exists():
        return directory
    directory.mkdir(parents=True, exist_ok=True)
    shapes = _shapes(model)
    layout = [(name, "BF16", shape) for name, shape in shapes.items()]
    names = list(shapes)
    file = directory / "model.safetensors"
    with SafetensorsWriter(file, layout) as writer, ThreadPoolExecutor(2) as two:
        # Two at a time: more would be made long before they can be written.
        for pair in (names[start : start + 2] for start in range(0, len(names), 2)):
            made = two.map(lambda name: _bits(model, name, shapes[name]), pair)
            for name, bits in zip(pair, made, strict=True):
                writer.write(name, bits)
    (directory / "tokenizer.json").write_text(json.dumps(_tokenizer(model)), encoding="utf-8")
    (directory / "config.json").write_text(json.dumps(model.config()), encoding="utf-8")
    return directory


def make_adapter(model: Model, base: Path, directory: Path) -> Path:
    """Write an adapter of rank 16 on all linear layers unless it is there."""
    if (directory / "adapter_config.json").exists():
        return directory
    directory.mkdir(parents=True, exist_ok=True)
    tensors = dict(_factors(model))
    layout = [(name, "BF16", values.shape) for name, values in tensors.items()]
    with SafetensorsWriter(directory / "adapter_model.safetensors", layout) as writer:
        for name, values in tensors.items():
            writer.write(name, bf16_from_float32(values))
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base),
        "r": _RANK,
        "lora_alpha": _ALPHA,
        "target_modules": sorted({name.rpartition(".")[2] for name in model.linears()}),
    }
    (directory / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return directory


def _shapes(model: Model) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (model.vocabulary, model.hidden)
    }
    shapes |= {f"{name}.weight": shape for name, shape in model.linears().items()}
    for layer in range(model.layers):
        for norm in _NORMS[model.kind]:
            shapes[f"model.layers.{layer}.{norm}.weight"] = (model.hidden,)
    return shapes | {"model.norm.weight": (model.hidden,)}


def _bits(model: Model, name: str, shape: tuple[int, ...]) -> NDArray[np.uint16]:
    rng = _generator(model, name)
    if len(shape) == 1:
        return bf16_from_float32(rng.uniform(0.5, 1.5, shape).astype(np.float32))
    noise = rng.standard_normal(shape, np.float32)
    if "embed" not in name:
        noise = _trained(noise, rng)
    noise *= np.float32(_RMS)
    return bf16_from_float32(noise)


def _trained(noise: Floats, rng: np.random.Generator) -> Floats:
    """Give noise of unit variance the scales and the leading directions of trained weights."""
    m, n = noise.shape
    for axis, length in ((0, m), (1, n)):
        scales = np.exp(_SCALES * rng.standard_normal(length) - _SCALES**2)
        noise *= np.expand_dims(scales.astype(np.float32), 1 - axis)
    strength = 2.0 * (m**0.5 + n**0.5) / (m * n) ** 0.5
    falling = strength * np.arange(1, _STRONG + 1) ** -0.3
    left = rng.standard_normal((m, _STRONG), np.float32) * falling.astype(np.float32)
    return noise + left @ rng.standard_normal((_STRONG, n), np.float32)


def _factors(model: Model) -> Iterator[tuple[str, Floats]]:
    for name, (rows, columns) in model.linears().items():
        rng = _generator(model, f"adapter {name}")
        for side, shape in (("A", (_RANK, columns)), ("B", (rows, _RANK))):
            values = rng.standard_normal(shape, np.float32) * np.float32(0.01)
            yield f"base_model.model.{name}.lora_{side}.weight", values


def _tokenizer(model: Model) -> dict[str, object]:
    """Return a vocabulary whose first tokens are in every other, in another order."""
    rows = _generator(model, "tokens").permutation(model.vocabulary)
    shared = [f"shared{number}" for number in range(_SHARED)]
    own = [f"{model.kind}{number}" for number in range(model.vocabulary - _SHARED)]
    numbers = rows.tolist()
    return {"model": {"type": "BPE", "vocab": dict(zip(shared + own, numbers, strict=True))}}


def _generator(model: Model, name: str) -> np.random.Generator:
    seed = zlib.crc32(f"{model.kind} {name}".encode())
    return np.random.Generator(np.random.SFC64(seed))

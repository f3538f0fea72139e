"""A checkpoint and an adapter that are good, as bytes: what cases are made from by spoiling."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Final

from raw_safetensors import raw_file

if TYPE_CHECKING:
    from pathlib import Path

ROWS: Final = 8
COLUMNS: Final = 12
RANK: Final = 2
SHAPES: Final = {
    "model.embed_tokens.weight": [16, COLUMNS],
    "model.layers.0.self_attn.q_proj.weight": [ROWS, COLUMNS],
    "model.layers.0.mlp.down_proj.weight": [COLUMNS, ROWS],
    "model.layers.0.input_layernorm.weight": [COLUMNS],
    "model.layers.1.self_attn.q_proj.weight": [ROWS, COLUMNS],
    "model.norm.weight": [COLUMNS],
}
Q0: Final = "model.layers.0.self_attn.q_proj"
Q1: Final = "model.layers.1.self_attn.q_proj"
DOWN0: Final = "model.layers.0.mlp.down_proj"
CONFIG: Final = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
ADAPTER_CONFIG: Final = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "r": RANK,
    "lora_alpha": RANK,
    "target_modules": ["q_proj"],
}
INDEX_NAME: Final = "model.safetensors.index.json"
#: A tensor: dtype, shape, bytes.
Tensor = tuple[str, list[int], bytes]
Tensors = dict[str, Tensor]
_BITS: Final = {"F64": 64, "F32": 32, "I32": 32, "BF16": 16, "F16": 16, "F4": 4}


def bf16(count: int, seed: int) -> bytes:
    """Numbers from 0.5 to below 4, positive or not, of every pattern, the same on any machine."""
    state, codes = seed * 2_654_435_761 % 2**32 or 1, []
    for _ in range(count):
        state = (1_664_525 * state + 1_013_904_223) % 2**32
        codes.append(((state >> 31) << 15) | (0x3F00 + (state >> 16) % 0x180))
    return b"".join(code.to_bytes(2, "little") for code in codes)


def tensors(seed: int = 0) -> Tensors:
    """The tensors of the toy; another seed gives others in the attention and the MLP."""
    found: Tensors = {}
    for number, (name, shape) in enumerate(SHAPES.items()):
        size = shape[0] * (shape[1] if len(shape) > 1 else 1)
        own = seed if "_proj" in name else 0
        found[name] = ("BF16", list(shape), bf16(size, 100 * own + number + 1))
    return found


def nbytes(dtype: str, shape: list[int]) -> int:
    """Size of a tensor."""
    count = 1
    for length in shape:
        count *= length
    return count * _BITS.get(dtype, 8) // 8


def zeros(dtype: str, shape: list[int], fill: bytes = b"\0") -> Tensor:
    """A tensor of one byte repeated."""
    return dtype, list(shape), fill * nbytes(dtype, shape)


def header_of(found: Tensors) -> dict[str, Any]:
    """A header that fits the tensors, in their order."""
    header, position = {}, 0
    for name, (dtype, shape, data) in found.items():
        offsets = [position, position + len(data)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        position += len(data)
    return header


def pack(found: Tensors, header: dict[str, Any] | None = None) -> bytes:
    """A safetensors file of the tensors, under another header if one is given."""
    data = b"".join(data for _, _, data in found.values())
    return raw_file(header_of(found) if header is None else header, data)


def write_json(path: Path, content: object) -> None:
    """Write JSON, or text as it is."""
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(json.dumps(content), "utf-8")


def write_checkpoint(directory: Path, found: Tensors, config: object = CONFIG) -> None:
    """One file and config.json; None leaves that out."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "model.safetensors").write_bytes(pack(found))
    if config is not None:
        write_json(directory / "config.json", config)


def write_sharded(directory: Path, found: Tensors, index: object = None) -> None:
    """Two files and an index, which is the true one unless another is given."""
    directory.mkdir(parents=True, exist_ok=True)
    names = list(found)
    weight_map = {}
    for number in range(2):
        file = f"model-0000{number + 1}-of-00002.safetensors"
        part = {name: found[name] for name in names[number::2]}
        (directory / file).write_bytes(pack(part))
        weight_map.update(dict.fromkeys(part, file))
    write_json(directory / "config.json", CONFIG)
    true = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    write_json(directory / INDEX_NAME, true if index is None else index)


def weight_map() -> dict[str, str]:
    """What the true index of `write_sharded` says."""
    names = list(SHAPES)
    return {
        name: f"model-0000{number + 1}-of-00002.safetensors"
        for number in range(2)
        for name in names[number::2]
    }


def factors(modules: tuple[str, ...] = (Q0, Q1), rank: int = RANK) -> Tensors:
    """LoRA factors of modules of ROWS x COLUMNS."""
    found: Tensors = {}
    for number, module in enumerate(modules):
        a, b = (
            f"base_model.model.{module}.lora_A.weight",
            f"base_model.model.{module}.lora_B.weight",
        )
        found[a] = ("BF16", [rank, COLUMNS], bf16(rank * COLUMNS, 700 + number))
        found[b] = ("BF16", [ROWS, rank], bf16(rank * ROWS, 800 + number))
    return found


def write_adapter(directory: Path, found: Tensors | None = None, config: object = None) -> None:
    """An adapter of the toy; None gives the good tensors, the good config."""
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "adapter_config.json", ADAPTER_CONFIG if config is None else config)
    data = pack(factors() if found is None else found)
    (directory / "adapter_model.safetensors").write_bytes(data)


def adapter_config(**changes: object) -> dict[str, Any]:
    """The good config with other values."""
    return {**deepcopy(dict(ADAPTER_CONFIG)), **changes}


def write_good(directory: Path) -> None:
    """The files that cases are tried with: BASE, TUNED and ADAPTER."""
    write_checkpoint(directory / "BASE", tensors())
    write_checkpoint(directory / "TUNED", tensors(1))
    write_adapter(directory / "ADAPTER")

"""Headers of safetensors files: lengths, JSON, offsets, overflows, names, numbers of tensors."""

from __future__ import annotations

import json
import os
from functools import partial
from typing import TYPE_CHECKING, Final

from hostile import toy
from hostile.case import ADAPTER, CHECKPOINT, EXTRACT, LOOK, Case
from hostile_safetensors import MALFORMED, STRICTER, VALID
from raw_safetensors import f32, raw_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_KIND: Final = "header"
_SOME: Final = (CHECKPOINT[0], CHECKPOINT[3], CHECKPOINT[4])
_MANY: Final = 1_000_000
_NAMES: Final = {
    "parent directories": "../../../etc/passwd.weight",
    "an absolute path": "/etc/passwd.weight",
    "a drive": "C:\\windows\\system32.weight",
    "dots alone": "......",
    "the end alone": ".weight",
    "digits of other scripts": "model.layers.\u0663.mlp.up_proj.weight",
    "a superscript digit": "model.layers.\u00b2.mlp.up_proj.weight",
    "a layer of 20 digits": f"model.layers.{'9' * 20}.mlp.up_proj.weight",
    "an expert of 20 digits": f"model.layers.0.mlp.experts.{'9' * 20}.up_proj.weight",
    "emoji": "model.layers.0.\U0001f600_proj.weight",
    "format braces": "{0.__class__}%s%n.weight",
    "markup": "[red]model[/red].<script>alert(1)</script>.weight",
    "the name of metadata": "__metadata__.weight",
    "what PEFT writes": "base_model.model.model.layers.0.mlp.lora_A.weight",
    "half of a surrogate pair as text": "\\ud800.weight",
}


def _file(content: bytes) -> Callable[[Path], None]:
    def make(directory: Path) -> None:
        (directory / "model.safetensors").write_bytes(content)

    return make


def _adapter(content: bytes) -> Callable[[Path], None]:
    def make(directory: Path) -> None:
        toy.write_adapter(directory)
        (directory / "adapter_model.safetensors").write_bytes(content)

    return make


def _with(name: str, tensor: toy.Tensor, directory: Path) -> None:
    toy.write_checkpoint(directory, {**toy.tensors(1), name: tensor})


def _many(count: int, last: int, directory: Path) -> None:
    """So many empty tensors; the data of the last begin where it is told."""
    begins = [0] * (count - 1) + [last]
    header = ",".join(
        f'"{i}.mlp.weight":{{"dtype":"F32","shape":[0],"data_offsets":[{begin},{begin}]}}'
        for i, begin in enumerate(begins)
    )
    (directory / "model.safetensors").write_bytes(raw_file(f"{{{header}}}".encode()))


def _sparse(shape: list[int], directory: Path) -> None:
    """A file with a hole: it says that it is large, and takes no space."""
    size = 4 * shape[0] * shape[1]
    content = raw_file({f"{toy.Q0}.weight": f32(shape, 0, size)})
    path = directory / "model.safetensors"
    path.write_bytes(content)
    os.truncate(path, len(content) + size)


def _odd_start(directory: Path) -> None:
    """Every number of the file lies at an odd address."""
    found = toy.tensors(1)
    text = json.dumps(toy.header_of(found)).encode()
    text += b" " * (1 - len(text) % 2)
    data = b"".join(data for _, _, data in found.values())
    (directory / "model.safetensors").write_bytes(raw_file(text, data))
    toy.write_json(directory / "config.json", toy.CONFIG)


def _deep(depth: int, closed: bool, directory: Path) -> None:
    text = b'{"a":' * depth + b"1" + b"}" * (depth if closed else 0)
    (directory / "model.safetensors").write_bytes(raw_file(text))


def _lists(depth: int, directory: Path) -> None:
    text = '{"a":{"dtype":"F32","shape":' + "[" * depth + "]" * depth + ',"data_offsets":[0,0]}}'
    (directory / "model.safetensors").write_bytes(raw_file(text.encode()))


def cases() -> Iterator[Case]:
    """Yield the cases."""
    for name, content in (MALFORMED | STRICTER).items():
        yield Case(_KIND, name, _file(content), _SOME, says="model.safetensors")
    for name, content in VALID.items():
        yield Case(_KIND, f"{name} (legal)", _file(content), LOOK, (0,))
    for name in ("overlap", "product of 2^64", "duplicate tensor", "beyond the file", "bad UTF-8"):
        content = (MALFORMED | STRICTER)[name]
        yield Case(
            _KIND, f"{name}, of an adapter", _adapter(content), ADAPTER, says="adapter_model"
        )
    for name, text in _NAMES.items():
        tensor = toy.zeros("BF16", [2, 2])
        yield Case(
            _KIND, f"name: {name} (legal)", partial(_with, text, tensor), LOOK + EXTRACT, (0,)
        )
    yield from _long_names()
    yield from _depths()
    yield from _sizes()


def _long_names() -> Iterator[Case]:
    tensor = toy.zeros("BF16", [2, 2])
    parts = {
        "a million letters": "n" * 1_000_000,
        "a million dots": "a." * 500_000 + "weight",
        "5,000 digits of a layer": f"model.layers.{'7' * 5000}.mlp.up_proj.weight",
        "base_layer 100,000 times": f"base_model.model.a{'.base_layer' * 100_000}.x",
        "attention 100,000 times": "attn_" * 100_000 + ".weight",
    }
    for name, text in parts.items():
        make = partial(_with, text, tensor)
        yield Case(_KIND, f"name: {name}", make, LOOK + EXTRACT, says="characters", alone=True)
    for name in ("base_layer 100,000 times", "a million dots"):
        found = {**toy.factors(), parts[name]: tensor}
        make = partial(toy.write_adapter, found=found)
        yield Case(_KIND, f"name in an adapter: {name}", make, ADAPTER[:1], alone=True)


def _depths() -> Iterator[Case]:
    for depth in (100, 900, 990, 1000, 2000):
        yield Case(_KIND, f"objects {depth} deep", partial(_deep, depth, True), _SOME)
        yield Case(_KIND, f"shape {depth} lists deep", partial(_lists, depth), _SOME)
    yield Case(_KIND, "objects without an end", partial(_deep, 1_000_000, False), _SOME)


def _sizes() -> Iterator[Case]:
    yield Case(_KIND, "unaligned numbers (legal)", _odd_start, LOOK + EXTRACT, (0,))
    few, many = partial(_many, _MANY // 10, 0), partial(_many, _MANY, 1)
    yield Case(_KIND, "10^5 tensors (legal)", few, LOOK, (0,), alone=True)
    yield Case(_KIND, "10^6 tensors, the last beyond the end", many, LOOK, alone=True)
    yield Case(_KIND, "2 TB without content (legal)", partial(_sparse, [2**19, 2**20]), LOOK, (0,))
    wide = partial(_sparse, [1, 2**38])
    yield Case(_KIND, "a row of 1 TB", wide, CHECKPOINT[3:5], (3, 4), alone=True)
    for shape in ([0, 12], [8, 0], [0, 0], [], [8], [8, 12, 1], [1, 8, 12], [12, 8], [8, 13]):
        tensor = toy.zeros("BF16", shape)
        make = partial(_with, f"{toy.Q0}.weight", tensor)
        name = f"q_proj of shape {shape}"
        yield Case(_KIND, name, make, CHECKPOINT[1:3], (4,))
    for dtype in ("F64", "I32", "F4", "U8", "BOOL"):
        tensor = toy.zeros(dtype, [toy.ROWS, toy.COLUMNS])
        make = partial(_with, f"{toy.Q0}.weight", tensor)
        yield Case(_KIND, f"q_proj in {dtype}", make, LOOK + EXTRACT + CHECKPOINT[4:5], (0, 3, 4))

"""Shard indexes that lie, and shards that are not what the index says."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from hostile import toy
from hostile.case import CHECKPOINT, LOOK, Case

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_KIND: Final = "index"
_FIRST: Final = "model-00001-of-00002.safetensors"
_SECOND: Final = "model-00002-of-00002.safetensors"
_SOME: Final = (CHECKPOINT[0], CHECKPOINT[1], CHECKPOINT[4])
_SHARD_NAMES: Final = {
    "in the parent directory": "../model-00001-of-00002.safetensors",
    "far above": "../../../../../../etc/passwd",
    "absolute": "/etc/passwd.safetensors",
    "below": "sub/model.safetensors",
    "with a backslash": "..\\model.safetensors",
    "with NUL": "a\0.safetensors",
    "with a line break": "a\n.safetensors",
    "with an escape code": "\x1b[2J.safetensors",
    "empty": "",
    "a dot": ".",
    "two dots": "..",
    "no .safetensors": "pytorch_model.bin",
    "of a million letters": "n" * 1_000_000 + ".safetensors",
    "a number": 7,
    "null": None,
    "a list": [_FIRST],
    "an object": {"file": _FIRST},
    "not there": "model-00003-of-00002.safetensors",
    "half a surrogate pair": "\ud800.safetensors",
    "the index itself": toy.INDEX_NAME,
    "a URL": "https://example.com/model.safetensors",
}
_CONTENTS: Final[dict[str, Any]] = {
    "empty file": b"",
    "a list": [],
    "null": b"null",
    "no weight_map": {"metadata": {}},
    "weight_map is a list": {"weight_map": [_FIRST]},
    "weight_map is a text": {"weight_map": _FIRST},
    "weight_map is empty": {"weight_map": {}},
    "weight_map is null": {"weight_map": None},
    "a key twice": b'{"weight_map":{"a":"b.safetensors","a":"c.safetensors"}}',
    "NaN": b'{"metadata":{"total_size":NaN},"weight_map":{"a":"b.safetensors"}}',
    "not UTF-8": b'{"weight_map":{"\xff":"b.safetensors"}}',
    "UTF-16": '{"weight_map":{}}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"weight_map":{"a":"b.safetensors"}}',
    "deep": b'{"weight_map":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "990 deep": b'{"weight_map":' + b"[" * 990 + b"]" * 990 + b"}",
    "cut off": b'{"weight_map":{"model.norm.weight":"model-0000',
    "a safetensors file": toy.pack(toy.tensors()),
}


def _named(shard: object, directory: Path) -> None:
    names = {**toy.weight_map(), "model.norm.weight": shard}
    toy.write_sharded(directory, toy.tensors(1), {"weight_map": names})


def _changed(change: Callable[[Path], object], directory: Path) -> None:
    toy.write_sharded(directory, toy.tensors(1))
    change(directory)


def _swapped(directory: Path) -> None:
    names = {name: _SECOND if file == _FIRST else _FIRST for name, file in toy.weight_map().items()}
    toy.write_json(directory / toy.INDEX_NAME, {"weight_map": names})


def _promised(directory: Path) -> None:
    names = {**toy.weight_map(), "model.layers.7.self_attn.q_proj.weight": _FIRST}
    toy.write_json(directory / toy.INDEX_NAME, {"weight_map": names})


def _twice(directory: Path) -> None:
    (directory / _SECOND).write_bytes((directory / _FIRST).read_bytes())


def _cut(directory: Path) -> None:
    path = directory / _SECOND
    path.write_bytes(path.read_bytes()[:-1])


def _pickled(directory: Path) -> None:
    (directory / toy.INDEX_NAME).unlink()
    for path in directory.glob("*.safetensors"):
        path.rename(path.with_suffix(".bin"))


def _numbered_wrong(directory: Path) -> None:
    (directory / toy.INDEX_NAME).unlink()
    (directory / _SECOND).rename(directory / "model-00009-of-00002.safetensors")


def _numbered_zero(directory: Path) -> None:
    (directory / toy.INDEX_NAME).unlink()
    (directory / _SECOND).rename(directory / "model-00000-of-00000.safetensors")


def _total(value: object, directory: Path) -> None:
    index = {"metadata": value, "weight_map": toy.weight_map()}
    toy.write_json(directory / toy.INDEX_NAME, index)


_CHANGES: Final[dict[str, Callable[[Path], object]]] = {
    "shards swapped": _swapped,
    "a tensor that no shard holds": _promised,
    "one shard is the other": _twice,
    "a shard is cut off": _cut,
    "a shard is missing": lambda directory: (directory / _FIRST).unlink(),
    "a shard is empty": lambda directory: (directory / _FIRST).write_bytes(b""),
    "a single file beside it": lambda directory: (directory / "model.safetensors").write_bytes(
        toy.pack(toy.tensors())
    ),
    "pickles": _pickled,
    "no index and a number too large": _numbered_wrong,
    "no index and shard 0 of 0": _numbered_zero,
}


def cases() -> Iterator[Case]:
    """Yield the cases."""
    for name, shard in _SHARD_NAMES.items():
        yield Case(_KIND, f"shard name {name}", partial(_named, shard), _SOME)
    for name, content in _CONTENTS.items():
        make = partial(toy.write_sharded, found=toy.tensors(1), index=content)
        yield Case(_KIND, f"content: {name}", make, _SOME, says="index.json")
    for name, change in _CHANGES.items():
        yield Case(_KIND, name, partial(_changed, change), _SOME)
    for value in (7, None, [], {"total_size": "much"}, {"total_size": -1}):
        make = partial(_changed, partial(_total, value))
        yield Case(_KIND, f"metadata {value} (legal)", make, LOOK + CHECKPOINT[4:5], (0,))

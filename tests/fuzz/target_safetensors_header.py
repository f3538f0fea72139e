"""The header of a safetensors file. An input is the file's size, 8 bytes, and the file's start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import safetensors

import json_mutation
from hostile_safetensors import MALFORMED, STRICTER, VALID
from loragraft.safetensors_header import parse_header
from target import data_bytes, refusals

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

    from loragraft.safetensors_header import Header

_WORDS = (
    "dtype",
    "shape",
    "data_offsets",
    "__metadata__",
    "F32",
    "F6_E2M3",
    "F8_E8M0",
    "C64",
    "U64",
)
#: Files up to here are shown to the official reader too.
_SMALL = 1 << 20


def seeds() -> Iterator[bytes]:
    for content in (MALFORMED | STRICTER | VALID).values():
        if len(content) < 4096:
            length = int.from_bytes(content[:8], "little")
            yield len(content).to_bytes(8, "little") + content[: 8 + length]


def check(data: bytes) -> None:
    size, head = int.from_bytes(data[:8], "little"), data[8:]
    with refusals():
        header = parse_header(head, size, "x.safetensors")
        _check_cover(header, size)
        if size <= _SMALL:
            file = head[: header.data_start] + bytes(size - header.data_start)
            safetensors.deserialize(file)  # what we accept, it does


def _check_cover(header: Header, size: int) -> None:
    position = header.data_start
    for name, extent in header.tensors.items():
        assert name == extent.name
        assert name.isprintable()
        assert extent.begin == position
        assert extent.end >= extent.begin
        position = extent.end
    assert position == size


def mutate(data: bytes, random: Random) -> bytes:
    text = json_mutation.mutate(data[16:], random, _WORDS)
    if random.random() < 0.5:
        text = _laid_out(text)
    size = 8 + len(text) + data_bytes(text)
    if random.random() < 0.1:
        size += random.choice((-1, 1, 4, 2**63))
    length = len(text) + (random.choice((-1, 1, 2**62)) if random.random() < 0.05 else 0)
    return (size % 2**64).to_bytes(8, "little") + (length % 2**64).to_bytes(8, "little") + text


def _laid_out(text: bytes) -> bytes:
    """The same with the tensors one behind another, where their sizes make sense."""
    end = 0
    try:
        tree = json_mutation.parse(text)
        for i, (name, info) in enumerate(tree):
            fields: dict[str, Any] = dict(info)
            begin, stop = fields["data_offsets"]
            fields["data_offsets"] = [end, end + stop - begin]
            end += stop - begin
            tree[i] = (name, json_mutation.Pairs(fields.items()))
        return json_mutation.dump(tree)
    except (ValueError, TypeError, KeyError):
        return text

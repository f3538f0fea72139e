"""A GGUF file: its header, and the model or adapter that it says it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hostile_gguf import MALFORMED, VALID
from loragraft.adapter.gguf.reading import read_gguf_adapter
from loragraft.ggml.header import read_gguf_header
from loragraft.ggml.model import read_model
from loragraft.inspection import inspect
from raw_gguf import F32, STRING, U32, entry, raw_gguf, string, tensor, u32
from target import check_page, refusals, scratch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

_Q = "blk.0.attn_q.weight"


def _texts(**values: str) -> list[bytes]:
    return [entry(key.replace("_", "."), STRING, string(text)) for key, text in values.items()]


def seeds() -> Iterator[bytes]:
    yield from (content for content in (MALFORMED | VALID).values() if len(content) < 4096)
    lora = _texts(general_type="adapter", adapter_type="lora", general_architecture="llama")
    pair = [tensor(f"{_Q}.lora_a", (12, 2)), tensor(f"{_Q}.lora_b", (2, 8), 0, 96)]
    yield raw_gguf([*lora, entry("adapter.lora.alpha", F32, u32(0))], pair, bytes(160))
    numbers = {"block_count": 1, "attention.head_count": 2, "attention.head_count_kv": 1}
    settings = [entry(f"llama.{key}", U32, u32(value)) for key, value in numbers.items()]
    weight = [tensor(_Q, (32, 8), 8)]
    yield raw_gguf([*_texts(general_architecture="llama"), *settings], weight, bytes(8 * 34))


def check(data: bytes) -> None:
    path = scratch() / "x.gguf"
    path.write_bytes(data)
    with refusals():
        header, _ = read_gguf_header(path)
        position = 0
        for name, extent in header.tensors.items():
            assert name.isprintable()
            assert position <= extent.begin <= extent.end <= len(data)
            position = extent.end
    with refusals():
        read_gguf_adapter(path)
    with refusals():
        read_model(path)
    with refusals():
        read_model(path, skeleton=True)
    with refusals():
        check_page(inspect(path))


def mutate(data: bytes, random: Random) -> bytes:
    """Another file with a few bytes, or whole numbers of 8 bytes, changed, added or left out."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4, 16))):
        place = random.randrange(len(changed) + 1)
        way = random.random()
        if way < 0.5:
            changed[place : place + 1] = bytes([random.choice((0, 1, 2, 8, 9, 255))])
        elif way < 0.65:
            del changed[place : place + random.choice((1, 4, 8))]
        elif way < 0.8:
            changed[place:place] = random.randbytes(random.choice((1, 4, 8)))
        else:
            number = random.choice((0, 1, 2**31, 2**32, 2**63, 2**64 - 1))
            changed[place : place + 8] = number.to_bytes(8, "little")
    return bytes(changed)

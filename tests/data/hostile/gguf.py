"""GGUF files: counts, strings, types, offsets; models and adapters that lie in their metadata."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from hostile.case import Case
from hostile_gguf import MALFORMED, VALID
from raw_gguf import ARRAY, F32, STRING, U32, array, entry, raw_gguf, string, tensor, u32

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_KIND: Final = "gguf"
_LOOK: Final = (("inspect", "BAD"),)
_SIDE: Final = ("extract", "BAD", "TUNED", "-o", "OUT", "--rank", "2")
_MODEL: Final = (*_LOOK, _SIDE, ("verify", "BAD", "TUNED", "ADAPTER"))
_EXPORT: Final = ("export", "BAD", "--base", "BASE", "--format", "peft", "-o", "OUT")
_ADAPTER: Final = (*_LOOK, _EXPORT)
_REFUSED: Final = (
    ("merge", "BAD", "ADAPTER", "-o", "OUT"),
    ("compare", "BAD", "TUNED"),
    ("export", "ADAPTER", "--base", "BAD", "-o", "OUT"),
)
_LORA: Final = {"general.type": "adapter", "adapter.type": "lora", "general.architecture": "llama"}
_ALPHA: Final = entry("adapter.lora.alpha", F32, u32(0))


def _texts(values: dict[str, str]) -> list[bytes]:
    return [entry(key, STRING, string(value)) for key, value in values.items()]


def _write(content: bytes, directory: Path) -> None:
    (directory / "bad.gguf").write_bytes(content)


def _case(
    name: str, content: bytes, commands: tuple[tuple[str, ...], ...], codes: tuple[int, ...] = (3,)
) -> Case:
    make = partial(_write, content)
    return Case(_KIND, name, make, commands, codes, subject="bad.gguf")


def _pair(name: str, a: tuple[int, int], b: tuple[int, int], kinds: tuple[int, int]) -> bytes:
    """An adapter of one pair of zeros; sizes in ggml's order."""
    first = 4 * a[0] * a[1]
    second = -(-first // 32) * 32
    tensors = [
        tensor(f"{name}.lora_a", a, kinds[0], 0),
        tensor(f"{name}.lora_b", b, kinds[1], second),
    ]
    data = bytes(second + 4 * b[0] * b[1])
    return raw_gguf([*_texts(_LORA), _ALPHA], tensors, data)


def cases() -> Iterator[Case]:
    """Yield the cases."""
    for name, content in MALFORMED.items():
        yield _case(name, content, (*_MODEL, *_ADAPTER[1:], *_REFUSED[2:]))
    for name, content in VALID.items():
        yield _case(f"{name} (legal)", content, _LOOK, (0,))
    yield from _models()
    yield from _adapters()


def _models() -> Iterator[Case]:
    weight = [tensor("blk.0.attn_q.weight", (8, 8))]
    data = bytes(256)
    settings = {
        "no architecture": [],
        "an architecture that nobody knows": _texts({"general.architecture": "x" * 100}),
        "an architecture with an escape code": _texts({"general.architecture": "\x1b[31m"}),
        "blocks of the wrong type": [
            *_texts({"general.architecture": "llama"}),
            entry("llama.block_count", STRING, string("many")),
        ],
        "2^32 - 1 blocks": [
            *_texts({"general.architecture": "llama"}),
            entry("llama.block_count", U32, u32(2**32 - 1)),
        ],
        "heads that differ by block": [
            *_texts({"general.architecture": "llama"}),
            entry("llama.block_count", U32, u32(1)),
            entry("llama.attention.head_count", ARRAY, array(U32, 2, u32(2) + u32(4))),
        ],
        "no heads": [
            *_texts({"general.architecture": "llama"}),
            entry("llama.block_count", U32, u32(1)),
            entry("llama.attention.head_count", U32, u32(0)),
        ],
        "heads that do not divide the rows": [
            *_texts({"general.architecture": "llama"}),
            entry("llama.block_count", U32, u32(1)),
            entry("llama.attention.head_count", U32, u32(3)),
        ],
    }
    for name, entries in settings.items():
        content = raw_gguf(entries, weight, data)
        yield _case(f"a model: {name}", content, _MODEL[1:], (3, 4))
        yield _case(f"a model: {name}, looked at", content, _LOOK, (0, 3))
    yield _case("a model for what reads none", raw_gguf([], weight, data), _REFUSED[:2])


def _adapters() -> Iterator[Case]:
    q, both = "blk.0.attn_q.weight", (0, 0)
    fine = _pair(q, (12, 2), (2, 8), both)
    wrong = {
        "ranks that differ": _pair(q, (12, 2), (3, 8), both),
        "a factor in Q4_0": _pair(q, (32, 2), (32, 8), (2, 2)),
        "A alone": raw_gguf(_texts(_LORA), [tensor(f"{q}.lora_a", (12, 2))], bytes(96)),
        "no factors": raw_gguf(_texts(_LORA)),
        "a whole weight": raw_gguf(_texts(_LORA), [tensor(q, (12, 2))], bytes(96)),
        "another type of adapter": fine.replace(
            b"\x04\0\0\0\0\0\0\0lora", b"\x04\0\0\0\0\0\0\0LoRA"
        ),
        "alpha that is text": raw_gguf(
            [*_texts(_LORA), entry("adapter.lora.alpha", STRING, string("16"))],
            [tensor(f"{q}.lora_a", (12, 2)), tensor(f"{q}.lora_b", (2, 8), 0, 96)],
            bytes(160),
        ),
        "alpha that is no number": fine.replace(
            _ALPHA, entry("adapter.lora.alpha", F32, b"\0\0\xc0\x7f")
        ),
        "infinite alpha": fine.replace(_ALPHA, entry("adapter.lora.alpha", F32, b"\0\0\x80\x7f")),
        "tokens that invoke it": raw_gguf(
            [
                *_texts(_LORA),
                entry("adapter.alora.invocation_tokens", ARRAY, array(U32, 1, u32(5))),
            ],
            [tensor(f"{q}.lora_a", (12, 2)), tensor(f"{q}.lora_b", (2, 8), 0, 96)],
            bytes(160),
        ),
    }
    for name, content in wrong.items():
        yield _case(f"an adapter: {name}", content, _ADAPTER)
    misfits = {
        "for another architecture": fine.replace(
            b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0gemma"
        ),
        "of another width": _pair(q, (13, 2), (2, 8), both),
        "of a block that is not there": _pair("blk.9.attn_q.weight", (12, 2), (2, 8), both),
        "of a name that nobody knows": _pair("blk.0.attn_x.weight", (12, 2), (2, 8), both),
    }
    for name, content in misfits.items():
        yield _case(f"an adapter: {name}", content, (_EXPORT,), (3, 4))

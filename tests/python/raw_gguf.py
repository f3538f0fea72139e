"""GGUF files put together byte by byte, right or wrong."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Codes of the types of values, and of two tensor types.
U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
T_F32, T_Q8_0 = 0, 8


def u32(number: int) -> bytes:
    return struct.pack("<I", number)


def u64(number: int) -> bytes:
    return struct.pack("<Q", number)


def string(text: str | bytes, length: int | None = None) -> bytes:
    """A string, with its true length unless told."""
    raw = text.encode() if isinstance(text, str) else text
    return u64(len(raw) if length is None else length) + raw


def entry(key: str | bytes, kind: int, value: bytes) -> bytes:
    return string(key) + u32(kind) + value


def array(kind: int, count: int, values: bytes = b"") -> bytes:
    return u32(kind) + u64(count) + values


def tensor(
    name: str | bytes, dims: Sequence[int] = (8,), kind: int = T_F32, offset: int = 0
) -> bytes:
    """An entry of the table of tensors; dimensions in ggml's order, columns first."""
    sizes = b"".join(map(u64, dims))
    return string(name) + u32(len(dims)) + sizes + u32(kind) + u64(offset)


def raw_gguf(
    entries: Sequence[bytes] = (),
    tensors: Sequence[bytes] = (),
    data: bytes = b"",
    *,
    magic: bytes = b"GGUF",
    version: bytes = u32(3),
    counts: tuple[int, int] | None = None,
    alignment: int = 32,
) -> bytes:
    """The bytes of a file; ``counts`` are those of tensors and entries unless told."""
    many = (len(tensors), len(entries)) if counts is None else counts
    head = magic + version + b"".join(map(u64, many)) + b"".join(entries) + b"".join(tensors)
    return head + bytes(-len(head) % alignment if data else 0) + data

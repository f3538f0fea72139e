"""GGUF files that are malformed, or odd but valid; data for tests and for a corpus."""

from __future__ import annotations

from raw_gguf import (
    ARRAY,
    BOOL,
    F32,
    STRING,
    T_Q8_0,
    U32,
    U64,
    array,
    entry,
    raw_gguf,
    string,
    tensor,
    u32,
    u64,
)

DATA = bytes(32)
ONE = tensor("a")
SMALL = raw_gguf([entry("k", U32, u32(7))], [ONE], DATA)


def _entry(kind: int, value: bytes) -> bytes:
    return raw_gguf([entry("k", kind, value)])


def _tensor(**changes: object) -> bytes:
    return raw_gguf([], [tensor("a", **changes)], DATA)  # type: ignore[arg-type]


def _aligned(kind: int, value: bytes) -> bytes:
    return raw_gguf([entry("general.alignment", kind, value)], [ONE], DATA)


MALFORMED = {
    "empty file": b"",
    "three bytes": b"GGU",
    "magic alone": b"GGUF",
    "wrong magic": raw_gguf(magic=b"GGML"),
    "magic backwards": raw_gguf(magic=b"FUGG"),
    "version 0": raw_gguf(version=u32(0)),
    "version 1": raw_gguf(version=u32(1)),
    "version 4": raw_gguf(version=u32(4)),
    "big endian": b"GGUF" + bytes(3) + b"\x03" + bytes(16),
    "more entries than there are": raw_gguf([entry("k", U32, u32(1))], counts=(0, 2)),
    "more tensors than there are": raw_gguf([], [ONE], DATA, counts=(2, 0)),
    "fewer tensors than there are": raw_gguf([], [tensor("a"), ONE], DATA, counts=(3, 0)),
    "2^63 entries": raw_gguf(counts=(0, 2**63)),
    "2^64 - 1 tensors": raw_gguf(counts=(2**64 - 1, 0)),
    "a million tensors": raw_gguf(counts=(2**20, 0)),
    "key of 2^64 - 1 bytes": raw_gguf([string(b"k", 2**64 - 1)], counts=(0, 1)),
    "key one byte longer than the file": raw_gguf([string(b"k", 2)], counts=(0, 1)),
    "empty key": raw_gguf([entry("", U32, u32(1))]),
    "key that is not UTF-8": raw_gguf([entry(b"\xff\xfe", U32, u32(1))]),
    "key with a zero": raw_gguf([entry("a\0b", U32, u32(1))]),
    "key with an escape code": raw_gguf([entry("\x1b[31m", U32, u32(1))]),
    "long key with a newline": raw_gguf([entry("x" * 5000 + "\n", U32, u32(1))]),
    "duplicate key": raw_gguf([entry("k", U32, u32(1))] * 2),
    "unknown type of value": _entry(13, bytes(8)),
    "type of value 2^32 - 1": _entry(2**32 - 1, bytes(8)),
    "string of 2^63 bytes": _entry(STRING, string(b"", 2**63)),
    "string as long as the file": _entry(STRING, string(b"", 45)),
    "array of 2^64 - 1 numbers": _entry(ARRAY, array(U64, 2**64 - 1)),
    "array of 2^61 numbers": _entry(ARRAY, array(U64, 2**61)),
    "array of a million numbers that are not there": _entry(ARRAY, array(F32, 2**20)),
    "array of 2^40 strings": _entry(ARRAY, array(STRING, 2**40)),
    "array of strings that are not there": _entry(ARRAY, array(STRING, 2**20)),
    "arrays that add up": raw_gguf(
        [entry(f"k{i}", ARRAY, array(STRING, 0 if i else 2**23 + 1)) for i in range(2)]
    ),
    "array of arrays": _entry(ARRAY, array(ARRAY, 1, array(U32, 0))),
    "deep arrays": _entry(ARRAY, array(ARRAY, 1) * 10_000),
    "array of an unknown type": _entry(ARRAY, array(99, 1, bytes(8))),
    "tensor without a name": raw_gguf([], [tensor("")], DATA),
    "tensor name of 64 bytes": raw_gguf([], [tensor("a" * 64)], DATA),
    "tensor name of 64 bytes in 32 letters": raw_gguf([], [tensor("é" * 32)], DATA),
    "tensor name that is not UTF-8": raw_gguf([], [tensor(b"\xc0\xaf")], DATA),
    "tensor name with a newline": raw_gguf([], [tensor("a\nb")], DATA),
    "tensor name that turns the text around": raw_gguf([], [tensor("a\u202eb")], DATA),
    "duplicate tensor": raw_gguf([], [ONE, tensor("a", offset=32)], bytes(64)),
    "five dimensions": _tensor(dims=(1,) * 5),
    "2^32 - 1 dimensions": raw_gguf([], [string("a") + u32(2**32 - 1)], DATA),
    "dimension 0": _tensor(dims=(0,)),
    "dimension 0 beside a huge one": _tensor(dims=(2**62, 0)),
    "dimension of 2^64 - 1": _tensor(dims=(2**64 - 1,)),
    "dimension of 2^63": _tensor(dims=(2**63,)),
    "product of 2^64": _tensor(dims=(2**32, 2**32)),
    "product of 2^64 + 8": _tensor(dims=(2**32, 2**32, 2**32, 2**32)),
    "2^62 numbers": _tensor(dims=(2**62,)),
    "unknown tensor type": _tensor(kind=4),
    "type of a later ggml": _tensor(kind=42),
    "tensor type 2^32 - 1": _tensor(kind=2**32 - 1),
    "half a block": _tensor(dims=(16,), kind=T_Q8_0),
    "a block across rows": _tensor(dims=(8, 4), kind=T_Q8_0),
    "a scalar in blocks": _tensor(dims=(), kind=T_Q8_0),
    "offset in front": _tensor(offset=32),
    "offset of 2^64 - 32": _tensor(offset=2**64 - 32),
    "offset off the alignment": raw_gguf([], [ONE, tensor("b", offset=33)], bytes(65)),
    "overlap": raw_gguf([], [ONE, tensor("b", offset=0)], bytes(64)),
    "hole": raw_gguf([], [ONE, tensor("b", offset=64)], bytes(96)),
    "order by offset differs": raw_gguf([], [tensor("a", offset=32), tensor("b")], bytes(64)),
    "one byte less than the tensor": raw_gguf([], [ONE], bytes(31)),
    "no data": raw_gguf([], [ONE]),
    "alignment 0": _aligned(U32, u32(0)),
    "alignment 3": _aligned(U32, u32(3)),
    "alignment 2^31": _aligned(U32, u32(2**31)),
    "alignment 2^63": _aligned(U64, u64(2**63)),
    "alignment is true": _aligned(BOOL, b"\x01"),
    "alignment is text": _aligned(STRING, string("32")),
    "alignment is an array": _aligned(ARRAY, array(U32, 1, u32(32))),
    "alignment is not a number": _aligned(F32, b"\x00\x00\xc0\x7f"),
}
VALID = {
    "nothing in it": raw_gguf(),
    "version 2": raw_gguf([], [ONE], DATA, version=u32(2)),
    "small": SMALL,
    "a scalar": raw_gguf([], [tensor("a", ())], bytes(4)),
    "no padding behind the last tensor": raw_gguf([], [tensor("a", (1,))], bytes(4)),
    "bytes behind the last tensor": raw_gguf([], [ONE], bytes(1000)),
    "alignment 1": raw_gguf([entry("general.alignment", U32, u32(1))], [ONE], DATA, alignment=1),
    "alignment 4096": raw_gguf(
        [entry("general.alignment", U32, u32(4096))], [ONE], DATA, alignment=4096
    ),
    "empty arrays": raw_gguf([entry(f"k{t}", ARRAY, array(t, 0)) for t in (U32, STRING, BOOL)]),
    "long array of numbers": _entry(ARRAY, array(U32, 5000, bytes(20_000))),
    "long array of strings": _entry(ARRAY, array(STRING, 5000, string("w") * 5000)),
    "string that is not UTF-8": _entry(STRING, string(b"\xff\xfe")),
    "string with newlines and escape codes": _entry(STRING, string("a\n\x1b[31m\0")),
    "tensor name of 63 bytes": raw_gguf([], [tensor("a" * 63)], DATA),
    "name with spaces and accents": raw_gguf([], [tensor("é ü")], DATA),
    "name like a path": raw_gguf([], [tensor("../../x")], DATA),
}

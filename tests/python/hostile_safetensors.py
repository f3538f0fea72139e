"""Safetensors files that are malformed, questionable or odd but valid, and who accepts them."""

from __future__ import annotations

import safetensors

from loragraft.errors import FormatError
from loragraft.safetensors_header import MAX_HEADER_BYTES, parse_header
from raw_safetensors import f32, raw_file

ONE = f32([1], 0, 4)
DATA = bytes(4)
DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000


def entry(**changes):
    return {"a": {**ONE, **changes}}


# What the official reader refuses too.
MALFORMED = {
    "empty file": b"",
    "seven bytes": bytes(7),
    "no header": raw_file(b""),
    "truncated header": raw_file({"a": ONE}, DATA)[:30],
    "truncated data": raw_file({"a": ONE}, bytes(3)),
    "header longer than the file": raw_file({"a": ONE}, DATA, length=1000),
    "header one byte longer than the file": raw_file(b"{} ", length=4),
    "header above 100 MB": raw_file({"a": ONE}, DATA, length=MAX_HEADER_BYTES + 1),
    "header of 2^63": raw_file({"a": ONE}, DATA, length=2**63),
    "header of 2^64 - 8": raw_file({"a": ONE}, DATA, length=2**64 - 8),
    "header of 2^64 - 1": raw_file({"a": ONE}, DATA, length=2**64 - 1),
    "bad UTF-8": raw_file(b'{"\xff\xfe":1}'),
    "overlong UTF-8": raw_file(b'{"\xc0\xaf":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'),
    "lone surrogate": raw_file(rb'{"\ud800":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'),
    "lone surrogate in metadata": raw_file(rb'{"__metadata__":{"a":"\udfff"}}'),
    "not JSON": raw_file(b"{nonsense}"),
    "text after the object": raw_file(b"{} x"),
    "list": raw_file(b"[]"),
    "null": raw_file(b"null"),
    "string": raw_file(b'"a"'),
    "NaN": raw_file(b'{"a":NaN}'),
    "deep objects": raw_file(DEEP),
    "deep lists": raw_file(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "tensor is a number": raw_file({"a": 1}, DATA),
    "tensor is a list": raw_file({"a": [1]}, DATA),
    "tensor is null": raw_file({"a": None}, DATA),
    "no dtype": raw_file({"a": {"shape": [1], "data_offsets": [0, 4]}}, DATA),
    "no shape": raw_file({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, DATA),
    "no offsets": raw_file({"a": {"dtype": "F32", "shape": [1]}}, DATA),
    "duplicate field": raw_file(
        b'{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', DATA
    ),
    "unknown dtype": raw_file(entry(dtype="F33"), DATA),
    "dtype in lower case": raw_file(entry(dtype="f32"), DATA),
    "dtype is a list": raw_file(entry(dtype=["F32"]), DATA),
    "dtype is null": raw_file(entry(dtype=None), DATA),
    "negative dimension": raw_file(entry(shape=[-1]), DATA),
    "two negative dimensions": raw_file(entry(shape=[-1, -1]), DATA),
    "minus zero": raw_file(entry(shape=[-0.0], data_offsets=[0, 0])),
    "minus zero, integer": raw_file(b'{"a":{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}}'),
    "float dimension": raw_file(entry(shape=[1.0]), DATA),
    "exponent": raw_file(b'{"a":{"dtype":"F32","shape":[1e0],"data_offsets":[0,4]}}', DATA),
    "true as dimension": raw_file(entry(shape=[True]), DATA),
    "text as dimension": raw_file(entry(shape=["1"]), DATA),
    "null as dimension": raw_file(entry(shape=[None]), DATA),
    "nested shape": raw_file(entry(shape=[[1]]), DATA),
    "shape is a number": raw_file(entry(shape=1), DATA),
    "dimension of 2^64": raw_file(entry(shape=[2**64]), DATA),
    "dimension of 5000 digits": raw_file(
        b'{"a":{"dtype":"F32","shape":[' + b"1" * 5000 + b'],"data_offsets":[0,4]}}', DATA
    ),
    "product of 2^64": raw_file(entry(shape=[2**32, 2**32]), DATA),
    "product of 2^64 + 1 elements": raw_file(entry(shape=[2**32 + 1, 2**32 - 1]), DATA),
    "bits overflow to 32": raw_file(entry(shape=[2**59 + 1]), DATA),
    "negative offset": raw_file(entry(data_offsets=[-4, 0]), DATA),
    "float offset": raw_file(entry(data_offsets=[0, 4.0]), DATA),
    "true as offset": raw_file(entry(shape=[0], data_offsets=[False, False])),
    "offset of 2^64": raw_file(entry(data_offsets=[2**64, 2**64 + 4]), DATA),
    "one offset": raw_file(entry(data_offsets=[0]), DATA),
    "three offsets": raw_file(entry(data_offsets=[0, 4, 8]), DATA),
    "offsets swapped": raw_file(entry(data_offsets=[4, 0]), DATA),
    "beyond the file": raw_file(entry(shape=[2], data_offsets=[0, 8]), DATA),
    "shape below size": raw_file(entry(shape=[1], data_offsets=[0, 8]), bytes(8)),
    "shape above size": raw_file(entry(shape=[3], data_offsets=[0, 8]), bytes(8)),
    "half a byte": raw_file(entry(dtype="F4", shape=[1], data_offsets=[0, 1]), bytes(1)),
    "overlap": raw_file({"a": f32([2], 0, 8), "b": f32([2], 4, 12)}, bytes(12)),
    "same bytes twice": raw_file({"a": ONE, "b": ONE}, DATA),
    "hole": raw_file({"a": ONE, "b": f32([1], 8, 12)}, bytes(12)),
    "hole in front": raw_file({"a": f32([1], 4, 8)}, bytes(8)),
    "trailing bytes": raw_file({"a": ONE}, bytes(5)),
    "trailing bytes without tensors": raw_file({}, bytes(1)),
    "zero-size tensor beyond the end": raw_file({"a": f32([0], 4, 4)}),
    "metadata is a list": raw_file({"__metadata__": []}),
    "metadata is a string": raw_file({"__metadata__": "pt"}),
    "metadata of numbers": raw_file({"__metadata__": {"a": 1}}),
    "metadata of null": raw_file({"__metadata__": {"a": None}}),
    "metadata of objects": raw_file({"__metadata__": {"a": {"b": "c"}}}),
}
# What the official reader lets pass and we do not; docs/formats.md lists it.
STRICTER = {
    "duplicate tensor": raw_file(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        DATA,
    ),
    "duplicate metadata key": raw_file(b'{"__metadata__":{"a":"1","a":"2"}}'),
    "duplicate through an escape": raw_file(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"\\u0061":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        DATA,
    ),
    "leading space": raw_file(b'  {"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', DATA),
    "unknown field": raw_file(entry(stride=[1]), DATA),
    "metadata is null": raw_file(b'{"__metadata__":null}'),
    "name with NUL": raw_file({"a\0b": ONE}, DATA),
    "name with newline": raw_file({"a\nb": ONE}, DATA),
    "name with an escape code": raw_file({"\x1b[31ma": ONE}, DATA),
    "name with C1 control": raw_file({"a\x9bb": ONE}, DATA),
    "name that turns the text around": raw_file({"a\u202eb": ONE}, DATA),
    "name with line separator": raw_file({"a\u2028b": ONE}, DATA),
    "empty name": raw_file({"": ONE}, DATA),
    "name of 1001 characters": raw_file({"a" * 1001: ONE}, DATA),
    "name with a number of 5000 digits": raw_file({f"layers.{'1' * 5000}.up": ONE}, DATA),
    "33 dimensions": raw_file(entry(shape=[1] * 33), DATA),
    "empty tensor with a dimension of 2^63": raw_file({"a": f32([0, 2**63], 0, 0)}),
    "empty tensor whose other dimensions overflow": raw_file({"a": f32([0, 2**40, 2**40], 0, 0)}),
}
VALID = {
    "no tensors": raw_file({}),
    "spaces after the object": raw_file(b"{}      "),
    "length not a multiple of 8": raw_file(b"{}   "),
    "scalar": raw_file(entry(shape=[]), DATA),
    "empty tensor": raw_file({"a": f32([0], 0, 0)}),
    "empty tensor of three dimensions": raw_file({"a": f32([3, 0, 5], 0, 0)}),
    "empty tensors around another": raw_file(
        {"c": f32([0], 4, 4), "b": ONE, "a": f32([0], 0, 0)}, DATA
    ),
    "order by name differs from order in the file": raw_file(
        {"a": f32([1], 4, 8), "b": f32([1], 0, 4)}, bytes(8)
    ),
    "metadata": raw_file({"__metadata__": {"format": "pt", "é": "a\nb"}, "a": ONE}, DATA),
    "name with spaces and accents": raw_file({"é ü": ONE}, DATA),
    "name like a path": raw_file({"../../x": ONE}, DATA),
    "name of 1000 characters": raw_file({"a" * 1000: ONE}, DATA),
    "name with -0": raw_file({"blk-0": ONE}, DATA),
    "four-bit pairs": raw_file(entry(dtype="F4", shape=[8], data_offsets=[0, 4]), DATA),
    "six-bit quartet": raw_file(entry(dtype="F6_E2M3", shape=[4], data_offsets=[0, 3]), bytes(3)),
    "32 dimensions": raw_file(entry(shape=[1] * 32), DATA),
}


def official_accepts(content: bytes) -> bool:
    try:
        safetensors.deserialize(content)
    except safetensors.SafetensorError:
        return False
    return True


def we_accept(content: bytes) -> bool:
    length = int.from_bytes(content[:8], "little")
    try:
        parse_header(content[: 8 + length], len(content), "x.safetensors")
    except FormatError as error:
        check_message(str(error), "x.safetensors")
        return False
    return True


def check_message(message: str, file_name: str) -> None:
    assert file_name in message
    assert message.isprintable(), "one line, without control characters"
    assert len(message) < 1500

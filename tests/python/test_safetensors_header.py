"""Safetensors headers: what is valid is read as the official reader does, the rest is refused."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import example, given
from hypothesis import strategies as st
from raw_safetensors import f32, raw_file

from loragraft.errors import FormatError
from loragraft.safetensors_header import (
    MAX_HEADER_BYTES,
    Header,
    TensorExtent,
    parse_header,
    read_header,
)

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


@pytest.mark.parametrize("case", [*MALFORMED, *STRICTER])
def test_hostile_file_is_refused(case, tmp_path):
    path = tmp_path / "hostile.safetensors"
    path.write_bytes((MALFORMED | STRICTER)[case])
    with pytest.raises(FormatError) as caught:
        read_header(path)
    check_message(str(caught.value), str(path))
    assert not we_accept(path.read_bytes())


@pytest.mark.parametrize("case", MALFORMED)
def test_official_reader_refuses_the_same(case):
    assert not official_accepts(MALFORMED[case])


@pytest.mark.parametrize("case", STRICTER)
def test_official_reader_is_less_strict(case):
    """If this fails the official reader has become stricter: move the case to MALFORMED."""
    assert official_accepts(STRICTER[case])


@pytest.mark.parametrize("case", VALID)
def test_valid_file_is_read_like_the_official_reader(case, tmp_path):
    path = tmp_path / "valid.safetensors"
    content = VALID[case]
    path.write_bytes(content)
    header = read_header(path)
    official = dict(safetensors.deserialize(content))
    assert header.tensors.keys() == official.keys()
    for name, tensor in header.tensors.items():
        assert tensor.name == name
        assert tensor.dtype == official[name]["dtype"]
        assert list(tensor.shape) == official[name]["shape"]
        assert content[tensor.begin : tensor.end] == bytes(official[name]["data"])


def test_extents_are_absolute_and_in_file_order():
    content = raw_file({"a": f32([1], 4, 8), "b": f32([1, 1], 0, 4)}, bytes(8))
    start = len(content) - 8
    header = parse_header(content[:start], len(content), "x")
    assert header == Header(
        {
            "b": TensorExtent("b", "F32", (1, 1), start, start + 4),
            "a": TensorExtent("a", "F32", (1,), start + 4, start + 8),
        },
        {},
        start,
    )
    assert list(header.tensors) == ["b", "a"]


def test_head_shorter_than_the_header_it_announces():
    content = raw_file({"a": ONE}, DATA)
    with pytest.raises(FormatError, match="ends after 10 of"):
        parse_header(content[:18], len(content), "x.safetensors")


def test_message_says_what_was_found_and_what_was_expected(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(raw_file(entry(shape=[3, 5]), DATA))
    with pytest.raises(FormatError) as caught:
        read_header(path)
    assert str(caught.value) == (
        f"{path}: not a valid safetensors file: tensor 'a' has 4 bytes (0 to 4), expected 60 for"
        " F32 of shape [3, 5]"
    )


def test_very_long_names_are_shortened_in_messages(tmp_path):
    path = tmp_path / "long.safetensors"
    path.write_bytes(raw_file({"n" * 1_000_000: 1}))
    with pytest.raises(FormatError) as caught:
        read_header(path)
    check_message(str(caught.value), str(path))


def test_deep_nesting_near_the_recursion_limit():
    def at_depth(depth: int) -> bool:
        return at_depth(depth - 1) if depth else we_accept(raw_file(DEEP))

    assert not at_depth(600)


@pytest.mark.parametrize("kind", ["missing", "directory", "fifo", "device", "dangling", "loop"])
def test_what_is_no_regular_file(kind, tmp_path):
    path = tmp_path / "x.safetensors"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "dangling":
        path.symlink_to(tmp_path / "nowhere")
    elif kind == "loop":
        path.symlink_to(path)
    with pytest.raises(FormatError) as caught:
        read_header(path)
    check_message(str(caught.value), str(path))


def test_file_name_with_control_characters_is_escaped(tmp_path):
    path = tmp_path / "a\x1b[31m\nb.safetensors"
    path.write_bytes(b"")
    with pytest.raises(FormatError) as caught:
        read_header(path)
    check_message(str(caught.value), r"a\x1b[31m\nb.safetensors")


def test_nul_in_path():
    with pytest.raises(FormatError):
        read_header(Path("a\0b"))


def test_no_permission(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"

    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(FormatError, match="Permission denied"):
        read_header(path)


def test_failing_disk(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw_file({"a": ONE}, DATA))

    def fail(*_args):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(FormatError, match="Input/output error"):
        read_header(path)


def test_file_truncated_between_two_reads(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw_file({"a": ONE}, DATA))
    preadv = os.preadv

    def truncate_after(*args):
        count = preadv(*args)
        os.truncate(path, 8)
        return count

    monkeypatch.setattr(os, "preadv", truncate_after)
    with pytest.raises(FormatError, match="changed while it was being read"):
        read_header(path)


def test_hundred_thousand_tensors():
    header = {f"model.layers.{i}.w": f32([1], 4 * i, 4 * i + 4) for i in range(100_000)}
    content = raw_file(header)
    started = time.perf_counter()
    tensors = parse_header(content, len(content) + 400_000, "x").tensors
    assert time.perf_counter() - started < 5  # about 0.6 s on a quiet machine
    assert len(tensors) == 100_000


SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)
NUMPY_DTYPES = st.sampled_from(["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u1", "?"])
NAMES = st.text(min_size=1, max_size=12).filter(lambda s: s.isprintable() and s != "__metadata__")


@given(st.dictionaries(NAMES, st.tuples(NUMPY_DTYPES, SHAPES), max_size=6), st.booleans())
def test_official_writer_to_our_reader(layout, with_metadata):
    arrays = {
        name: (np.arange(np.prod(shape, dtype=int)) % 100).astype(dtype).reshape(shape)
        for name, (dtype, shape) in layout.items()
    }
    metadata = {"format": "np"} if with_metadata else None
    content = safetensors.numpy.save(arrays, metadata)
    header = parse_header(content, len(content), "x")
    assert header.tensors.keys() == arrays.keys()
    assert dict(header.metadata) == (metadata or {})
    for name, tensor in header.tensors.items():
        assert tensor.shape == arrays[name].shape
        assert content[tensor.begin : tensor.end] == arrays[name].tobytes()


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)
SMALL = st.integers(-1, 9) | st.sampled_from([2**31, 2**32, 2**61, 2**62, 2**63, 2**64])
TENSORS = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16", "U8", "F4", "F6_E2M3", "C64", "X"]),
        "shape": st.lists(SMALL, max_size=4),
        "data_offsets": st.lists(SMALL, min_size=2, max_size=2),
    }
)


@given(
    st.dictionaries(
        st.sampled_from(["a", "b", "__metadata__", "\n"]), TENSORS | JSON_VALUES, max_size=3
    ),
    st.integers(0, 20),
)
@example({"a": f32([2**62, 4, 0], 0, 0)}, 0)
def test_what_the_official_reader_refuses_we_refuse(header, size):
    content = raw_file(header, bytes(size))
    assert official_accepts(content) or not we_accept(content)


@pytest.mark.parametrize("seed", range(20))
def test_mutated_files_agree_with_the_official_reader(seed):
    """Flip, cut and insert bytes in valid files: never a crash, never more lenient."""
    generator = random.Random(seed)
    tokens = [b'"', b"{", b"}", b"[", b",", b"-", b"0", b"e5", b"1" * 20, b"\\ud800", b"\xff", b" "]
    accepted = 0
    for _ in range(300):
        content = bytearray(generator.choice(list(VALID.values())))
        for _ in range(generator.randint(1, 3)):
            place = generator.randrange(len(content)) if content else 0
            action = generator.randrange(3)
            if action == 0 and content:
                content[place] = generator.randrange(256)
            elif action == 1:
                content[place : place + generator.randint(1, 4)] = b""
            else:
                content[place:place] = generator.choice(tokens)
        ours = we_accept(bytes(content))
        accepted += ours
        assert official_accepts(bytes(content)) or not ours, bytes(content)
    assert accepted < 300

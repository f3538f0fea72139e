"""Our header parser beside the official one: same reading, and never more lenient."""

from __future__ import annotations

import random

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import example, given
from hypothesis import strategies as st

from hostile_safetensors import MALFORMED, STRICTER, VALID, official_accepts, we_accept
from loragraft.safetensors_header import parse_header, read_header
from raw_safetensors import f32, raw_file


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
def test_mutated_headers_agree_with_the_official_reader(seed):
    """Flip, cut and insert bytes in valid headers: never a crash, never more lenient."""
    generator = random.Random(seed)
    tokens = [b'"', b"{", b"}", b"[", b",", b"-", b"0", b"e5", b"1" * 20, b"\\ud800", b"\xff", b" "]
    accepted = 0
    for _ in range(300):
        content = generator.choice(list(VALID.values()))
        length = int.from_bytes(content[:8], "little")
        text = bytearray(content[8 : 8 + length])
        for _ in range(generator.randint(1, 2)):
            place = generator.randrange(len(text))
            action = generator.randrange(3)
            if action == 0:
                text[place] = generator.randrange(256)
            elif action == 1 and len(text) > 8:
                text[place : place + generator.randint(1, 4)] = b""
            else:
                text[place:place] = generator.choice(tokens)
        mutated = raw_file(bytes(text), content[8 + length :])
        ours = we_accept(mutated)
        accepted += ours
        assert official_accepts(mutated) or not ours, mutated
    assert 0 < accepted < 300

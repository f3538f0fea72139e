"""GGUF headers: against the package ``gguf``, and files that are malformed."""

from __future__ import annotations

import os
import time
import tracemalloc
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hostile_gguf as hostile
from hostile_safetensors import check_message
from loragraft.errors import FormatError
from loragraft.ggml.header import GgufHeader, LongArray, is_gguf, read_gguf_header
from loragraft.ggml.tensor_types import TYPES
from raw_gguf import ARRAY, F32, STRING, array, entry, raw_gguf, string, tensor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NUMBERS = {
    "uint8": 255, "int8": -128, "uint16": 65535, "int16": -32768, "uint32": 2**32 - 1,
    "int32": -(2**31), "uint64": 2**64 - 1, "int64": -(2**63), "float32": 0.5, "float64": 0.1,
    "bool": True,
}  # fmt: skip


def write(path: Path, fill: Callable[[gguf.GGUFWriter], None]) -> Path:
    """A file as the package writes it."""
    writer = gguf.GGUFWriter(path, "test")
    fill(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def header_of(path: Path, content: bytes) -> GgufHeader:
    path.write_bytes(content)
    return read_gguf_header(path)[0]


def check_agreement(path: Path) -> None:
    """Every value and extent is what the package reads."""
    ours, _ = read_gguf_header(path)
    theirs = gguf.GGUFReader(path)
    fields = {name: f for name, f in theirs.fields.items() if not name.startswith("GGUF.")}
    assert ours.metadata.keys() == fields.keys()
    for name, field in fields.items():
        assert ours.metadata[name] == field.contents(), name
        assert type(ours.metadata[name]) is type(field.contents()), name
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for info in theirs.tensors:
        found = ours.tensors[info.name]
        assert found.type == info.tensor_type.name
        assert found.shape == tuple(map(int, info.shape[::-1]))
        assert found.begin == info.data_offset
        assert found.end - found.begin == info.n_bytes


def test_types_are_those_of_the_package() -> None:
    known = {kind.value: (kind.name, *gguf.GGML_QUANT_SIZES[kind]) for kind in
             gguf.GGMLQuantizationType}  # fmt: skip
    assert {code: tuple(kind) for code, kind in TYPES.items()} == known


def test_every_type_of_value(tmp_path: Path) -> None:
    def fill(writer: gguf.GGUFWriter) -> None:
        for kind, value in NUMBERS.items():
            getattr(writer, f"add_{kind}")(f"one.{kind}", value)
        writer.add_string("text", "zwölf\n")
        writer.add_array("numbers", [1, -2, 3])
        writer.add_array("halves", [0.5, 1.5])
        writer.add_array("truths", [True, False])
        writer.add_array("words", ["a", "", "ü"])

    check_agreement(write(tmp_path / "x.gguf", fill))


@pytest.mark.parametrize("alignment", [8, 32, 64, 256])
def test_every_type_of_tensor(tmp_path: Path, alignment: int) -> None:
    def fill(writer: gguf.GGUFWriter) -> None:
        writer.add_custom_alignment(alignment)
        for kind in gguf.GGMLQuantizationType:
            block, nbytes = gguf.GGML_QUANT_SIZES[kind]
            raw = np.zeros((3, 2, 5 * nbytes), np.uint8)
            writer.add_tensor(f"t.{kind.name}", raw, (3, 2, 5 * nbytes), raw_dtype=kind)
            assert block

    path = write(tmp_path / "x.gguf", fill)
    check_agreement(path)
    for info in read_gguf_header(path)[0].tensors.values():
        kind = next(kind for kind in TYPES.values() if kind.name == info.type)
        assert info.shape == (3, 2, 5 * kind.block)


_NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(str.isprintable)
_SHAPES = st.lists(st.integers(1, 6), min_size=1, max_size=4)
_VALUES = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=30),
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=9),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    tensors=st.dictionaries(_NAMES, _SHAPES, max_size=6),
    values=st.dictionaries(_NAMES, _VALUES, max_size=6),
)
def test_any_names_shapes_and_values(
    tmp_path_factory: pytest.TempPathFactory,
    tensors: dict[str, list[int]],
    values: dict[str, Any],
) -> None:
    def fill(writer: gguf.GGUFWriter) -> None:
        for name, value in values.items():
            add = {str: writer.add_string, int: writer.add_uint32, list: writer.add_array}
            add[type(value)](f"v.{name}", value)
        for name, shape in tensors.items():
            writer.add_tensor(name, np.ones(shape, np.float16))

    path = tmp_path_factory.mktemp("any") / "x.gguf"
    check_agreement(write(path, fill))


@pytest.mark.parametrize("case", hostile.MALFORMED)
def test_malformed(tmp_path: Path, case: str) -> None:
    started = time.perf_counter()
    tracemalloc.start()
    with pytest.raises(FormatError) as caught:
        header_of(tmp_path / "x.gguf", hostile.MALFORMED[case])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    check_message(str(caught.value), "x.gguf")
    assert peak < 20e6
    assert time.perf_counter() - started < 5.0


@pytest.mark.parametrize("case", hostile.VALID)
def test_odd_but_valid(tmp_path: Path, case: str) -> None:
    header_of(tmp_path / "x.gguf", hostile.VALID[case])


@pytest.mark.parametrize("case", ["small", "long array of strings", "alignment 4096"])
def test_truncated_at_every_byte(tmp_path: Path, case: str) -> None:
    """A file that holds a tensor needs all of it; one without ends with its header."""
    path, whole = tmp_path / "x.gguf", hostile.VALID[case]
    path.write_bytes(whole)
    for length in range(len(whole) - 1, -1, -1 if len(whole) < 1000 else -97):
        os.truncate(path, length)
        with pytest.raises(FormatError) as caught:
            read_gguf_header(path)
        check_message(str(caught.value), "x.gguf")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(changes=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=4))
def test_changed_bytes(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    """Whatever passes lies within the file."""
    entries = [entry("k", STRING, string("v")), entry("l", ARRAY, array(F32, 2, bytes(8)))]
    table = [tensor("a"), tensor("b", (4, 2), offset=32)]
    content = bytearray(raw_gguf(entries, table, bytes(64)))
    for place, value in changes:
        content[place % len(content)] = value
    path = tmp_path_factory.mktemp("changed") / "x.gguf"
    try:
        header = header_of(path, bytes(content))
    except FormatError as error:
        check_message(str(error), "x.gguf")
        return
    for info in header.tensors.values():
        assert 0 <= info.begin <= info.end <= len(content)


def test_long_arrays_are_counted_and_not_kept(tmp_path: Path) -> None:
    words = raw_gguf([entry("k", ARRAY, array(STRING, 5000, string("w") * 5000))])
    assert header_of(tmp_path / "x.gguf", words).metadata["k"] == LongArray(5000)
    few = raw_gguf([entry("k", ARRAY, array(STRING, 4096, string("w") * 4096))])
    assert header_of(tmp_path / "x.gguf", few).metadata["k"] == ["w"] * 4096


def test_headers_longer_than_one_read(tmp_path: Path) -> None:
    """Strings that straddle the chunks in which a header is read."""
    texts = [chr(97 + i % 26) * (70_000 + i) for i in range(40)]
    entries = [entry(f"k{i}", STRING, string(text)) for i, text in enumerate(texts)]
    big = entry("big", STRING, string("x" * 3_000_000))
    path = tmp_path / "x.gguf"
    header = header_of(path, raw_gguf([*entries, big], [tensor("a")], bytes(32)))
    assert [header.metadata[f"k{i}"] for i in range(40)] == texts
    assert len(header.metadata["big"]) == 3_000_000
    assert header.tensors["a"].end == path.stat().st_size


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.gguf"):
        with pytest.raises(FormatError):
            read_gguf_header(path)
        assert not is_gguf(path)
    (tmp_path / "x").write_bytes(b"GGUF")
    assert is_gguf(tmp_path / "x")

"""The safetensors writer: what it makes the official reader loads, and nothing half-made stays."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from loragraft import atomic_file
from loragraft.errors import FormatError, UsageError
from loragraft.number_formats import DTYPES
from loragraft.safetensors_header import read_header
from loragraft.safetensors_writer import (
    SafetensorsWriter,
)

LAYOUT = [("b", "F16", (2, 3)), ("a", "F32", (2,)), ("c", "U8", (3,)), ("d", "F32", ())]
ARRAYS = {
    "a": np.array([1, 2], np.float32),
    "b": np.arange(6, dtype=np.float16).reshape(2, 3),
    "c": np.array([7, 8, 9], np.uint8),
    "d": np.array(3, np.float32),
}


@pytest.fixture(params=["anonymous", "named"], autouse=True)
def kind_of_temporary_file(request, monkeypatch):
    """Both ways to make the temporary file: without a name, and where that is not possible."""
    if request.param == "named":
        monkeypatch.setattr(atomic_file, "_can_be_anonymous", lambda _directory: False)
    return request.param


def write_all(path, order=("a", "b", "c", "d"), **options):
    with SafetensorsWriter(path, LAYOUT, **options) as writer:
        for name in order:
            writer.write(name, ARRAYS[name])
        return writer.nbytes


def test_official_reader_loads_it(tmp_path):
    path = tmp_path / "x.safetensors"
    size = write_all(path, metadata={"format": "pt", "a": "é\n"})
    assert path.stat().st_size == size
    loaded = safetensors.numpy.load_file(path)
    assert loaded.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(loaded[name], array, strict=True)
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata() == {"format": "pt", "a": "é\n"}


def test_order_is_the_given_one_with_wide_dtypes_first_and_aligned(tmp_path):
    path = tmp_path / "x.safetensors"
    write_all(path)
    header = read_header(path)
    assert list(header.tensors) == ["a", "d", "b", "c"]
    assert header.data_start % 8 == 0
    for tensor in header.tensors.values():
        assert tensor.begin % (DTYPES[tensor.dtype].bits // 8) == 0


def test_same_bytes_whatever_the_order_of_writing(tmp_path):
    write_all(tmp_path / "1", metadata={"x": "1", "y": "2"})
    write_all(tmp_path / "2", order=("d", "c", "b", "a"), metadata={"y": "2", "x": "1"})
    write_all(tmp_path / "2", order=("d", "c", "b", "a"), metadata={"y": "2", "x": "1"})
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_no_tensors(tmp_path):
    path = tmp_path / "x.safetensors"
    with SafetensorsWriter(path, []):
        pass
    assert safetensors.numpy.load_file(path) == {}


def test_parts_in_any_order(tmp_path):
    path = tmp_path / "x.safetensors"
    values = np.arange(100, dtype=np.float32)
    with SafetensorsWriter(path, [("a", "F32", (100,))]) as writer:
        for start in (50, 0, 75, 25):
            writer.write_part("a", values[start : start + 25], 4 * start)
    np.testing.assert_array_equal(safetensors.numpy.load_file(path)["a"], values)


@pytest.mark.parametrize(
    "parts", [[(0, 10)], [(0, 40), (60, 40)], [(50, 50)], [(0, 99)], [(0, 30), (20, 30)], []]
)
def test_missing_parts_are_an_error_and_leave_nothing(parts, tmp_path):
    writer = SafetensorsWriter(tmp_path / "x", [("a", "U8", (100,)), ("empty", "U8", (0, 4))])
    for start, size in parts:
        writer.write_part("a", bytes(size), start)
    with pytest.raises(RuntimeError, match="1 tensors are not written completely, such as 'a'"):
        writer.commit()
    assert list(tmp_path.iterdir()) == []


def test_overlapping_parts_that_cover_the_tensor(tmp_path):
    with SafetensorsWriter(tmp_path / "x", [("a", "U8", (10,))]) as writer:
        writer.write_part("a", bytes(6), 4)
        writer.write_part("a", bytes(6), 0)
        writer.write("a", b"0123456789")
    assert safetensors.numpy.load_file(tmp_path / "x")["a"].tobytes() == b"0123456789"


@pytest.mark.parametrize(
    "data",
    [
        b"\x01\x00\x02\x00",
        bytearray(b"\x01\x00\x02\x00"),
        memoryview(b"\x01\x00\x02\x00"),
        np.array([1, 2], "<u2"),
        np.array([1, 2], ">u2"),
        np.array([1, 9, 2, 9], "<u2")[::2],
        memoryview(np.array([1, 9, 2, 9], "<u2"))[::2],
        np.array([[1], [2]], "<u2").T,
        np.array([1, 2], "<u2").view(ml_dtypes.bfloat16),
    ],
    ids=lambda data: type(data).__name__,
)
def test_what_can_be_written(data, tmp_path):
    with SafetensorsWriter(tmp_path / "x", [("a", "U16", (2,))]) as writer:
        writer.write("a", data)
    assert safetensors.numpy.load_file(tmp_path / "x")["a"].tolist() == [1, 2]


def test_wrong_sizes_and_names_are_mistakes_of_the_caller(tmp_path):
    writer = SafetensorsWriter(tmp_path / "x", [("a", "F32", (2,))])
    for size in (0, 4, 9):
        with pytest.raises(ValueError, match=f"got {size} bytes, expected 8"):
            writer.write("a", bytes(size))
    for size, offset in ((4, 5), (9, 0), (4, -1), (1, 2**70)):
        with pytest.raises(ValueError, match="do not fit 8 bytes"):
            writer.write_part("a", bytes(size), offset)
    with pytest.raises(KeyError):
        writer.write("b", b"")
    with pytest.raises(KeyError):
        writer.set_dtype("b", "F32")
    writer.abort()
    assert list(tmp_path.iterdir()) == []


def test_late_change_of_dtype_gives_the_same_bytes_as_an_early_one(tmp_path):
    bits = np.array([0x3F80, 0x4000], np.uint16)
    for name, first in (("late", "F16"), ("early", "BF16")):
        with SafetensorsWriter(tmp_path / name, [("a", first, (2,)), ("b", first, (2,))]) as writer:
            for tensor in ("a", "b"):
                writer.write(tensor, bits)
                writer.set_dtype(tensor, "BF16")
    assert (tmp_path / "late").read_bytes() == (tmp_path / "early").read_bytes()
    loaded = safetensors.deserialize((tmp_path / "late").read_bytes())
    assert [tensor["dtype"] for _, tensor in loaded] == ["BF16", "BF16"]
    assert [bytes(tensor["data"]) for _, tensor in loaded] == [bits.tobytes()] * 2


@pytest.mark.parametrize("code", [code for code, dtype in DTYPES.items() if dtype.bits == 8])
def test_room_for_the_longest_dtype_code(code, tmp_path):
    with SafetensorsWriter(tmp_path / "x", [(f"t{i}", "U8", (1,)) for i in range(50)]) as writer:
        for i in range(50):
            writer.write(f"t{i}", b"x")
            writer.set_dtype(f"t{i}", code)
    assert {tensor.dtype for tensor in read_header(tmp_path / "x").tensors.values()} == {code}


@pytest.mark.parametrize("code", ["F32", "U8", "X", ""])
def test_dtype_of_another_width(code, tmp_path):
    writer = SafetensorsWriter(tmp_path / "x", [("a", "F16", (1,))])
    with pytest.raises(ValueError, match="cannot take the place of F16"):
        writer.set_dtype("a", code)
    writer.abort()


@pytest.mark.parametrize(
    ("layout", "metadata"),
    [
        ([("a", "F33", (1,))], None),
        ([("a", "F32", (-1,))], None),
        ([("a", "F32", (2**62, 4))], None),
        ([("a", "F4", (1,))], None),
        ([("", "F32", (1,))], None),
        ([("a\0", "F32", (1,))], None),
        ([("\ud800", "F32", (1,))], None),
        ([("__metadata__", "F32", (1,))], None),
        ([("a", "F32", (1,)), ("a", "F32", (1,))], None),
        ([("a", "F32", (1,))], {"k": 1}),
        ([("a", "F32", (1,))], {"k": "\ud800"}),
    ],
)
def test_layout_that_cannot_be_stored(layout, metadata, tmp_path):
    with pytest.raises(FormatError) as caught:
        SafetensorsWriter(tmp_path / "x.safetensors", layout, metadata)
    assert "x.safetensors" in str(caught.value)
    assert str(caught.value).isprintable()
    assert list(tmp_path.iterdir()) == []


def test_abort_and_exceptions_leave_nothing(tmp_path):
    writer = SafetensorsWriter(tmp_path / "x", LAYOUT)
    writer.write("a", ARRAYS["a"])
    writer.abort()
    writer.abort()
    assert list(tmp_path.iterdir()) == []
    for error in (ZeroDivisionError, KeyboardInterrupt):
        with pytest.raises(error), SafetensorsWriter(tmp_path / "x", LAYOUT):
            raise error
        assert list(tmp_path.iterdir()) == []


def test_the_old_file_stays_until_commit(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    writer = SafetensorsWriter(path, LAYOUT)
    assert path.read_bytes() == b"old"
    writer.abort()
    assert path.read_bytes() == b"old"
    write_all(path)
    assert path.read_bytes() != b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_commit_inside_the_block_and_use_after_it(tmp_path):
    with SafetensorsWriter(tmp_path / "x", [("a", "U8", (1,))]) as writer:
        writer.write("a", b"1")
        writer.commit()
    for action in (writer.commit, lambda: writer.write("a", b"1")):
        with pytest.raises(RuntimeError, match="committed or given up"):
            action()
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]
    with SafetensorsWriter(tmp_path / "y", [("a", "U8", (1,))]) as writer:
        writer.abort()
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]


def test_existing_file_without_overwrite(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with pytest.raises(UsageError, match="exists already"):
        SafetensorsWriter(path, LAYOUT, overwrite=False)
    assert path.read_bytes() == b"old"
    path.unlink()
    write_all(path, overwrite=False)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("links", [True, False])
def test_file_that_came_into_being_meanwhile(links, tmp_path, monkeypatch):
    path = tmp_path / "x"
    with SafetensorsWriter(path, [("a", "U8", (1,))], overwrite=False) as writer:
        writer.write("a", b"1")
        path.write_bytes(b"theirs")
        link = os.link

        def refuse(source, target, **options):
            if Path(target) == path:
                raise OSError(errno.EPERM, "Operation not permitted")
            link(source, target, **options)

        if not links:
            monkeypatch.setattr(os, "link", refuse)
        with pytest.raises(UsageError, match="exists already"):
            writer.commit()
    assert path.read_bytes() == b"theirs"
    assert list(tmp_path.iterdir()) == [path]


NUMPY_CODES = {
    "F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1",
    "U64": "u8", "U32": "u4", "U16": "u2", "U8": "u1", "BOOL": "?", "C64": "c8",
}  # fmt: skip
NAMES = st.text(min_size=1, max_size=12).filter(lambda s: s.isprintable() and s != "__metadata__")
LAYOUTS = st.dictionaries(
    NAMES,
    st.tuples(st.sampled_from(list(NUMPY_CODES)), st.lists(st.integers(0, 4), max_size=4)),
    max_size=6,
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@given(LAYOUTS, st.dictionaries(TEXT, TEXT, max_size=3), st.data())
def test_our_writer_to_the_official_reader(tmp_path_factory, layout, metadata, data):
    directory = tmp_path_factory.mktemp("written")
    path = directory / "x"
    arrays = {
        name: (np.arange(np.prod(shape, dtype=int)) % 100).astype(NUMPY_CODES[code]).reshape(shape)
        for name, (code, shape) in layout.items()
    }
    rows = [(name, code, tuple(shape)) for name, (code, shape) in layout.items()]
    with SafetensorsWriter(path, rows, metadata) as writer:
        for name in data.draw(st.permutations(list(arrays))):
            writer.write(name, arrays[name])
    with safetensors.safe_open(path, "np") as file:
        assert set(file.keys()) == arrays.keys()
        assert (file.metadata() or {}) == metadata
        for name, array in arrays.items():
            np.testing.assert_array_equal(file.get_tensor(name), array, strict=True)
    assert path.stat().st_size == writer.nbytes
    assert dict(read_header(path).metadata) == metadata

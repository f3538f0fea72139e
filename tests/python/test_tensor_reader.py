"""Reading tensors: exact, by position, and never from a file that changed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from loragraft.checkpoint import TensorEntry, open_checkpoint
from loragraft.errors import FormatError
from loragraft.safetensors_writer import SafetensorsWriter
from loragraft.tensor_reader import TensorReader
from raw_safetensors import raw_file, write_tensors


@pytest.fixture
def sharded(tmp_path) -> Path:
    write_tensors(tmp_path / "1.safetensors", "layers.10.w", "layers.2.w")
    write_tensors(tmp_path / "2.safetensors", "layers.1.w", "embed")
    return tmp_path


@pytest.fixture
def weights(tmp_path) -> tuple[Path, dict[str, np.ndarray]]:
    """A file with an unaligned data section and one tensor of each weight dtype, and others."""
    generator = np.random.default_rng(0)
    arrays = {
        "f32": generator.standard_normal((5, 3)).astype(np.float32),
        "f16": generator.standard_normal((4, 2, 3)).astype(np.float16),
        "bf16": generator.standard_normal((6,)).astype(ml_dtypes.bfloat16),
        "i64": np.arange(3),
        "scalar": np.array(2, np.float32),
        "empty": np.zeros((0, 7), np.float16),
        "f4": np.arange(4, dtype=np.uint8),
    }
    codes = ["F32", "F16", "BF16", "I64", "F32", "F16", "F4"]
    header, position = {}, 0
    for (name, array), code in zip(arrays.items(), codes, strict=True):
        shape = [8] if code == "F4" else list(array.shape)
        end = position + array.nbytes
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    text += b" " * (1 - len(text) % 2)
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw_file(text, b"".join(array.tobytes() for array in arrays.values())))
    return path, arrays


@pytest.mark.parametrize("name", ["f32", "f16", "bf16", "empty"])
def test_rows_are_widened_exactly(name, weights):
    path, arrays = weights
    entry = open_checkpoint(path).tensors[name]
    expected = arrays[name].astype(np.float32)
    with TensorReader() as reader:
        for start in range(entry.shape[0] + 1):
            for stop in range(start, entry.shape[0] + 1):
                rows = reader.rows(entry, start, stop)
                np.testing.assert_array_equal(rows, expected[start:stop], strict=True)
        assert reader.raw(entry) == arrays[name].tobytes()


def test_raw_rows_keep_the_storage_type(weights):
    path, arrays = weights
    tensors = open_checkpoint(path).tensors
    with TensorReader() as reader:
        bits = reader.raw_rows(tensors["bf16"], 1, 4)
        np.testing.assert_array_equal(bits, arrays["bf16"].view(np.uint16)[1:4], strict=True)
        integers = reader.raw_rows(tensors["i64"], 0, 3)
        np.testing.assert_array_equal(integers, arrays["i64"], strict=True)
        assert reader.raw(tensors["f4"]) == b"\0\1\2\3"
        assert reader.raw(tensors["scalar"]) == arrays["scalar"].tobytes()


def test_what_cannot_be_read_in_rows(weights):
    path, _ = weights
    tensors = open_checkpoint(path).tensors
    with TensorReader() as reader:
        with pytest.raises(FormatError, match="tensor 'i64' is I64, which cannot be computed"):
            reader.rows(tensors["i64"], 0, 1)
        with pytest.raises(FormatError, match="no whole bytes"):
            reader.raw_rows(tensors["f4"], 0, 2)
        for name, start, stop in (
            ("scalar", 0, 1),
            ("f32", 0, 6),
            ("f32", -1, 2),
            ("f32", 3, 2),
        ):
            with pytest.raises(ValueError, match=f"rows {start} to {stop} of {name}"):
                reader.raw_rows(tensors[name], start, stop)


def test_each_file_is_opened_once_and_closed(sharded, monkeypatch):
    tensors = open_checkpoint(sharded).tensors
    opened, real = [], os.open
    monkeypatch.setattr(os, "open", lambda path, *args: opened.append(path) or real(path, *args))
    before = len(list(Path("/proc/self/fd").iterdir()))
    with TensorReader() as reader:
        for _ in range(3):
            for entry in tensors.values():
                reader.raw(entry)
        assert len(opened) == 2
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    with pytest.raises(ValueError, match="closed"):
        reader.raw(tensors["embed"])


def replace(path: Path) -> None:
    content = path.read_bytes()
    status = path.stat()
    path.unlink()
    path.with_name("other").write_bytes(content)  # Takes the inode, should it be reused at once.
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


CHANGES = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size - 4),
    "emptied": lambda path: os.truncate(path, 0),
    "grown": lambda path: os.truncate(path, path.stat().st_size + 1),
    "touched": lambda path: os.utime(path, ns=(1, 1)),
}


@pytest.mark.parametrize("change", [*CHANGES, "replaced"])
def test_file_that_changed_since_the_checkpoint_was_opened(change, sharded):
    entry = open_checkpoint(sharded).tensors["embed"]
    (CHANGES | {"replaced": replace})[change](entry.path)
    with TensorReader() as reader, pytest.raises(FormatError, match="changed while it was") as info:
        reader.rows(entry, 0, 1)
    assert str(entry.path) in str(info.value)


@pytest.mark.parametrize("identified", [True, False])
@pytest.mark.parametrize("change", CHANGES)
def test_file_that_changed_between_two_reads(change, identified, sharded):
    entry = open_checkpoint(sharded).tensors["embed"]
    if not identified:
        entry = TensorEntry("embed", "F32", (1,), entry.path, entry.offset, entry.nbytes)
    with TensorReader() as reader:
        reader.rows(entry, 0, 1)
        CHANGES[change](entry.path)
        with pytest.raises(FormatError, match="changed while it was being read"):
            reader.rows(entry, 0, 1)


def test_file_that_vanished(sharded):
    entry = open_checkpoint(sharded).tensors["embed"]
    entry.path.unlink()
    with TensorReader() as reader, pytest.raises(FormatError, match="No such file"):
        reader.raw(entry)


def test_entry_beyond_the_end_of_the_file(tmp_path):
    path = write_tensors(tmp_path / "x.safetensors", "a")
    size = path.stat().st_size
    entry = TensorEntry("a", "F32", (4,), path, size - 4, 16)
    with TensorReader() as reader, pytest.raises(FormatError, match=f"ended at byte {size}"):
        reader.raw(entry)


def test_short_reads_are_continued(sharded, monkeypatch):
    entry = open_checkpoint(sharded).tensors["layers.2.w"]
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, views, at: preadv(fd, [views[0][:1]], at))
    with TensorReader() as reader:
        assert reader.raw(entry) == (1).to_bytes(4, "little")


def test_failing_disk(sharded, monkeypatch):
    entry = open_checkpoint(sharded).tensors["embed"]

    def fail(*_args):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    with TensorReader() as reader, pytest.raises(FormatError, match="Input/output error"):
        reader.raw(entry)


def test_what_the_writer_writes_the_reader_reads(tmp_path):
    values = np.linspace(-1, 1, 24, dtype=np.float32).reshape(6, 4)
    with SafetensorsWriter(tmp_path / "model.safetensors", [("w", "F32", (6, 4))]) as writer:
        writer.write_part("w", values[3:], 3 * 16)
        writer.write_part("w", values[:3], 0)
    with TensorReader() as reader:
        rows = reader.rows(open_checkpoint(tmp_path).tensors["w"], 2, 5)
    np.testing.assert_array_equal(rows, values[2:5], strict=True)

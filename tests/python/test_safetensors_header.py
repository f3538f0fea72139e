"""Safetensors headers: what is valid is read as the official reader does, the rest is refused."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from hostile_safetensors import (
    DATA,
    DEEP,
    MALFORMED,
    ONE,
    STRICTER,
    check_message,
    entry,
    we_accept,
)
from loragraft.errors import FormatError
from loragraft.safetensors_header import (
    Header,
    TensorExtent,
    parse_header,
    read_header,
)
from raw_safetensors import f32, raw_file


@pytest.mark.parametrize("case", [*MALFORMED, *STRICTER])
def test_hostile_file_is_refused(case, tmp_path):
    path = tmp_path / "hostile.safetensors"
    path.write_bytes((MALFORMED | STRICTER)[case])
    with pytest.raises(FormatError) as caught:
        read_header(path)
    check_message(str(caught.value), str(path))
    assert not we_accept(path.read_bytes())


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


@pytest.mark.parametrize("beyond", [1, 8, 9])
def test_header_that_ends_beyond_the_file(beyond):
    content = raw_file(b"{}", length=2 + beyond)
    with pytest.raises(FormatError, match=f"a header of {2 + beyond} bytes in a file of 10; is it"):
        parse_header(content, len(content), "x.safetensors")


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

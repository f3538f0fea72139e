"""Checkpoints: what is found where, indexes that lie, and reading tensors from changing files."""

from __future__ import annotations

import hashlib
import json
import os
import time
from typing import TYPE_CHECKING

import pytest

from loragraft import hub
from loragraft.checkpoint import Checkpoint, open_checkpoint
from loragraft.errors import FormatError
from raw_safetensors import f32, raw_file, write_tensors

if TYPE_CHECKING:
    from pathlib import Path

INDEX = "model.safetensors.index.json"


def write_index(directory: Path, weight_map) -> Path:
    path = directory / INDEX
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return path


def refused(reference) -> str:
    """The message with which a checkpoint is refused: one printable line."""
    with pytest.raises(FormatError) as caught:
        open_checkpoint(reference)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 1500
    return message


@pytest.fixture
def sharded(tmp_path) -> Path:
    write_tensors(tmp_path / "model-00001-of-00002.safetensors", "layers.10.w", "layers.2.w")
    write_tensors(tmp_path / "model-00002-of-00002.safetensors", "layers.1.w", "embed")
    write_index(
        tmp_path,
        {
            "layers.10.w": "model-00001-of-00002.safetensors",
            "layers.2.w": "model-00001-of-00002.safetensors",
            "layers.1.w": "model-00002-of-00002.safetensors",
            "embed": "model-00002-of-00002.safetensors",
        },
    )
    return tmp_path


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    def refuse(reference):
        raise FormatError(f"hub asked for {reference!r}")

    monkeypatch.setattr(hub, "download", refuse)


def test_sharded_directory(sharded):
    (sharded / "config.json").write_text('{"model_type": "llama", "limit": [0.0, Infinity]}')
    checkpoint = open_checkpoint(sharded)
    assert isinstance(checkpoint, Checkpoint)
    assert checkpoint.reference == str(sharded)
    assert checkpoint.directory == sharded
    assert list(checkpoint.tensors) == ["embed", "layers.1.w", "layers.2.w", "layers.10.w"]
    assert [path.name for path in checkpoint.shards] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    assert checkpoint.index == sharded / INDEX
    assert checkpoint.config is not None
    assert checkpoint.config["model_type"] == "llama"
    assert checkpoint.nbytes == 16
    entry = checkpoint.tensors["layers.2.w"]
    assert (entry.name, entry.dtype, entry.shape) == ("layers.2.w", "F32", (1,))
    assert (entry.path, entry.nbytes, entry.parameters) == (checkpoint.shards[0], 4, 1)
    assert entry.path.read_bytes()[entry.offset :] == (1).to_bytes(4, "little")


def test_single_file_in_a_directory(tmp_path):
    path = write_tensors(tmp_path / "model.safetensors", "a")
    write_tensors(tmp_path / "adapter_model.safetensors", "lora")
    write_tensors(tmp_path / "consolidated.safetensors", "a")
    checkpoint = open_checkpoint(str(tmp_path))
    assert list(checkpoint.tensors) == ["a"]
    assert (checkpoint.shards, checkpoint.index, checkpoint.config) == ((path,), None, None)


def test_one_file(tmp_path):
    path = write_tensors(tmp_path / "weights.safetensors", "a")
    write_tensors(tmp_path / "model.safetensors", "b")
    (tmp_path / "config.json").write_text("{}")
    checkpoint = open_checkpoint(path)
    assert list(checkpoint.tensors) == ["a"]
    assert (checkpoint.directory, checkpoint.shards) == (tmp_path, (path,))
    assert checkpoint.config == {}


def test_index_given_itself(sharded):
    assert len(open_checkpoint(sharded / INDEX).tensors) == 4


def test_adapter_file_given_itself(tmp_path):
    path = write_tensors(tmp_path / "adapter_model.safetensors", "a")
    assert list(open_checkpoint(path).tensors) == ["a"]


def test_loose_files_are_all_read(tmp_path):
    for number, name in ((2, "b"), (10, "c"), (1, "a")):
        write_tensors(tmp_path / f"part{number}.safetensors", name)
    write_tensors(tmp_path / "adapter_model.safetensors", "lora")
    checkpoint = open_checkpoint(tmp_path)
    assert list(checkpoint.tensors) == ["a", "b", "c"]
    assert [path.name for path in checkpoint.shards] == [
        "part1.safetensors",
        "part2.safetensors",
        "part10.safetensors",
    ]


def test_loose_shards_of_an_incomplete_download(tmp_path):
    write_tensors(tmp_path / "model-00001-of-00003.safetensors", "a")
    write_tensors(tmp_path / "model-00003-of-00003.safetensors", "b")
    assert "has 2 of the 3 shards" in refused(tmp_path)
    write_tensors(tmp_path / "model-00002-of-00003.safetensors", "c")
    assert len(open_checkpoint(tmp_path).tensors) == 3


def test_tensor_in_two_shards(tmp_path):
    write_tensors(tmp_path / "1.safetensors", "a", "b")
    write_tensors(tmp_path / "2.safetensors", "b", "c")
    assert "tensor 'b' is also in" in refused(tmp_path)


def test_shards_that_are_symbolic_links(sharded, tmp_path_factory):
    """The cache of huggingface_hub is made of links to files elsewhere."""
    snapshot = tmp_path_factory.mktemp("snapshot")
    for path in sharded.iterdir():
        (snapshot / path.name).symlink_to(path)
    assert len(open_checkpoint(snapshot).tensors) == 4


def test_tensor_that_the_index_does_not_list(sharded):
    write_tensors(sharded / "model-00002-of-00002.safetensors", "layers.1.w", "embed", "more")
    assert "more" in open_checkpoint(sharded).tensors


SHARD = "model-00001-of-00002.safetensors"


@pytest.mark.parametrize(
    ("shard", "said"),
    [
        ("missing.safetensors", "names the shard 'missing.safetensors'"),
        ("../outside.safetensors", "'../outside.safetensors', expected the name"),
        ("/etc/passwd.safetensors", "expected the name"),
        ("sub/x.safetensors", "expected the name"),
        ("link/x.safetensors", "expected the name"),
        ("./model-00001-of-00002.safetensors", "expected the name"),
        ("..\\x.safetensors", "expected the name"),
        ("", "expected the name"),
        ("..", "expected the name"),
        ("pytorch_model.bin", "expected the name"),
        ("a\0.safetensors", r"'a\x00.safetensors'"),
        ("a\n\x1b[31m.safetensors", r"'a\n\x1b[31m.safetensors'"),
        ("x" * 100_000 + ".safetensors", "(100012 long)"),
        (None, "None"),
        (1, "is said to be in 1"),
        ([SHARD], "expected the name"),
        ({"file": SHARD}, "expected the name"),
    ],
)
def test_index_with_a_bad_shard_name(shard, said, sharded):
    outside = sharded.parent / "outside.safetensors"
    write_tensors(outside, "layers.10.w")
    (sharded / "sub").mkdir()
    write_tensors(sharded / "sub" / "x.safetensors", "layers.10.w")
    (sharded / "link").symlink_to(sharded / "sub")
    write_index(sharded, {"layers.10.w": shard, "layers.2.w": SHARD})
    message = refused(sharded)
    assert said in message
    assert INDEX in message


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ghost": SHARD}, "'ghost' is in 'model-00001-of-00002.safetensors', but no shard holds"),
        ({"embed": SHARD}, "but 'model-00002-of-00002.safetensors' holds it"),
        ({"\x1b[2J": SHARD}, r"'\x1b[2J'"),
    ],
)
def test_index_that_lies_about_tensors(changes, said, sharded):
    weight_map = json.loads((sharded / INDEX).read_text())["weight_map"]
    write_index(sharded, weight_map | changes)
    message = refused(sharded)
    assert said in message
    assert INDEX in message


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b'{"weight_map": null}',
        b'{"weight_map": []}',
        b'{"weight_map": {}}',
        b'{"weight_map": "model.safetensors"}',
        b'{"weight_map": {"embed": "a.safetensors", "embed": "b.safetensors"}}',
        b'{"weight_map": {"a": "b.safetensors"}, "weight_map": {"a": "c.safetensors"}}',
        b'{"weight_map": {"\xff": "a.safetensors"}}',
        b'{"metadata": NaN, "weight_map": {"embed": "a.safetensors"}}',
        b'{"metadata": ' + b"9" * 5000 + b', "weight_map": {"embed": "a.safetensors"}}',
        b'{"weight_map": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=lambda text: text[:40].decode("latin-1"),
)
def test_malformed_index(text, sharded):
    (sharded / INDEX).write_bytes(text)
    assert INDEX in refused(sharded)


def test_index_beside_another_model(sharded):
    write_tensors(sharded / "model.safetensors", "embed")
    assert "has both model.safetensors and" in refused(sharded)


def test_index_of_a_single_file(tmp_path):
    write_tensors(tmp_path / "model.safetensors", "a")
    write_index(tmp_path, {"a": "model.safetensors"})
    assert open_checkpoint(tmp_path).index == tmp_path / INDEX


@pytest.mark.parametrize("name", [INDEX, "model.safetensors", "config.json", SHARD])
@pytest.mark.parametrize("kind", ["directory", "fifo", "device", "dangling link"])
def test_what_is_named_like_a_file_but_is_none(name, kind, sharded):
    if name == "model.safetensors":
        (sharded / INDEX).unlink()
    path = sharded / name
    path.unlink(missing_ok=True)
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.symlink_to("nowhere")
    assert name in refused(sharded)


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b'{"a": "\xff"}', b'{"a":' * 100_000])
def test_malformed_config(text, sharded):
    (sharded / "config.json").write_bytes(text)
    assert "config.json" in refused(sharded)


def test_huge_index_is_not_read(sharded, monkeypatch):
    os.truncate(sharded / INDEX, 10**12)
    assert "expected at most" in refused(sharded)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "x.ckpt"])
def test_pickles_are_never_read(name, tmp_path):
    (tmp_path / name).write_bytes(b"cos\nsystem\n")
    assert "safe_serialization=True" in refused(tmp_path)
    assert "safe_serialization=True" in refused(tmp_path / name)


def test_directory_with_nothing_or_only_an_adapter(tmp_path):
    assert "holds no .safetensors file" in refused(tmp_path)
    write_tensors(tmp_path / "adapter_model.safetensors", "a")
    assert "holds an adapter" in refused(tmp_path)


@pytest.mark.parametrize("reference", ["", "owner/name", "owner/name@v1", "a\0b", "x" * 300])
def test_what_is_no_path_goes_to_the_hub(reference, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert refused(reference).startswith("hub asked for")


def test_hub_snapshot_keeps_the_reference(sharded, monkeypatch):
    monkeypatch.setattr(hub, "download", lambda _reference: sharded)
    checkpoint = open_checkpoint("owner/name@main")
    assert (checkpoint.reference, checkpoint.directory) == ("owner/name@main", sharded)


@pytest.mark.parametrize("function", ["lstat", "open", "listdir"])
def test_no_permission(function, sharded, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, function, refuse)
    assert "Permission denied" in refused(sharded)


def test_tokenizer_files(sharded):
    assert open_checkpoint(sharded).tokenizer_files() == {}
    (sharded / "tokenizer.json").write_bytes(b"{}")
    (sharded / "merges.txt").write_bytes(b"a b")
    (sharded / "tokenizer_other.json").write_bytes(b"a b")
    checkpoint = open_checkpoint(sharded)
    assert checkpoint.tokenizer_files() == {
        "tokenizer.json": hashlib.sha256(b"{}").hexdigest(),
        "merges.txt": hashlib.sha256(b"a b").hexdigest(),
    }
    (sharded / "vocab.json").mkdir()
    with pytest.raises(FormatError, match=r"vocab\.json"):
        checkpoint.tokenizer_files()


def test_natural_order_of_awkward_names(tmp_path):
    names = ["a.10", "a.9", "a.09", "a", "a.9.b", "1" * 900, "b"]
    write_tensors(tmp_path / "model.safetensors", *names)
    found = list(open_checkpoint(tmp_path).tensors)
    assert sorted(found) == sorted(names)
    assert [name for name in found if name.startswith("a.")] == ["a.09", "a.9", "a.9.b", "a.10"]


def test_hundred_thousand_tensors(tmp_path):
    header = {
        f"model.layers.{i // 1000}.mlp.experts.{i % 1000}.w": f32([1], 4 * i, 4 * i + 4)
        for i in range(100_000)
    }
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw_file(header))
    os.truncate(path, path.stat().st_size + 400_000)
    started = time.perf_counter()
    tensors = open_checkpoint(path).tensors
    assert time.perf_counter() - started < 8  # about 1.2 s on a quiet machine
    assert list(tensors)[11] == "model.layers.0.mlp.experts.11.w"

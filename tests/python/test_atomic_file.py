"""Files appear whole or not at all: full disks, failing disks, kills, and odd destinations."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from loragraft import atomic_file
from loragraft.errors import FormatError
from loragraft.safetensors_writer import (
    SafetensorsWriter,
    write_bytes_atomic,
    write_text_atomic,
)
from raw_safetensors import write_tensors

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


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_follow_the_umask(umask, tmp_path):
    before = os.umask(umask)
    try:
        write_all(tmp_path / "x")
        write_text_atomic(tmp_path / "y", "é")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o666 & ~umask
    assert stat.S_IMODE((tmp_path / "y").stat().st_mode) == 0o644 & ~umask


def fail_with(number):
    def fail(*_args, **_kwargs):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
def test_no_space_is_known_before_the_work(number, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "posix_fallocate", fail_with(number))
    with pytest.raises(FormatError, match=os.strerror(number)) as caught:
        SafetensorsWriter(tmp_path / "x", LAYOUT)
    assert str(tmp_path / "x") in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_filesystem_without_preallocation(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "posix_fallocate", fail_with(errno.EOPNOTSUPP))
    write_all(tmp_path / "x")
    assert safetensors.numpy.load_file(tmp_path / "x").keys() == ARRAYS.keys()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EPERM])
def test_no_permission(number, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "open", fail_with(number))
    with pytest.raises(FormatError, match=os.strerror(number)):
        SafetensorsWriter(tmp_path / "x", LAYOUT)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["pwrite", "fsync"])
def test_failing_disk_leaves_the_old_file(call, tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail_with(errno.EIO))
        with pytest.raises(FormatError, match="Input/output error"):
            write_all(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_failing_header_leaves_nothing(tmp_path, monkeypatch):
    writer = SafetensorsWriter(tmp_path / "x", [("a", "U8", (0,))])
    monkeypatch.setattr(os, "pwrite", fail_with(errno.ENOSPC))
    with pytest.raises(FormatError, match="No space left on device: free some space"):
        writer.commit()
    assert list(tmp_path.iterdir()) == []


def test_short_writes_are_continued(tmp_path, monkeypatch):
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:3], at))
    write_all(tmp_path / "x")
    np.testing.assert_array_equal(safetensors.numpy.load_file(tmp_path / "x")["b"], ARRAYS["b"])


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EACCES])
def test_directory_that_cannot_be_synced(number, tmp_path, monkeypatch):
    fsync = os.fsync

    def sync(fd):
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", sync)
    write_all(tmp_path / "x")
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]


def test_data_are_on_disk_before_the_file_has_its_name(tmp_path, monkeypatch):
    path = tmp_path / "x"
    events = []
    fsync = os.fsync

    def sync(fd):
        what = "directory" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file"
        events.append((what, path.exists()))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", sync)
    write_all(path)
    assert events == [("file", False), ("directory", True)]


@pytest.mark.parametrize("kind", ["directory", "fifo"])
def test_destination_that_is_no_file(kind, tmp_path):
    path = tmp_path / "x"
    if kind == "directory":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(FormatError, match="not a regular file"):
        SafetensorsWriter(path, LAYOUT)
    assert list(tmp_path.iterdir()) == [path]


def test_missing_directory(tmp_path):
    with pytest.raises(FormatError, match="make its directory first"):
        SafetensorsWriter(tmp_path / "no" / "x", LAYOUT)


def test_symbolic_link_is_replaced_not_followed(tmp_path):
    target = write_tensors(tmp_path / "target", "a")
    before = target.read_bytes()
    path = tmp_path / "x"
    path.symlink_to(target)
    write_all(path)
    assert target.read_bytes() == before
    assert not path.is_symlink()


def test_saving_over_the_file_that_is_being_read(tmp_path):
    path = tmp_path / "x"
    write_all(path)
    loaded = safetensors.numpy.load_file(path)
    with SafetensorsWriter(path, LAYOUT) as writer:
        for name, array in loaded.items():
            writer.write(name, array)
    np.testing.assert_array_equal(safetensors.numpy.load_file(path)["a"], ARRAYS["a"])


def test_killed_process_leaves_no_file_under_the_final_name(tmp_path, kind_of_temporary_file):
    named = kind_of_temporary_file == "named" or not atomic_file._can_be_anonymous(tmp_path)
    script = (
        "import os, sys, pathlib\n"
        "from loragraft import atomic_file\n"
        "from loragraft.safetensors_writer import SafetensorsWriter\n"
        f"atomic_file._can_be_anonymous = lambda directory: {not named}\n"
        "writer = SafetensorsWriter(pathlib.Path(sys.argv[1]), [('a', 'U8', (1 << 20,))])\n"
        f"os.kill(os.getpid(), {signal.SIGKILL.value})\n"
    )
    package = Path(atomic_file.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "x"],
        env={**os.environ, "PYTHONPATH": str(package)},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    # A file without a name vanishes with its process; one with a name stays, under no name that
    # any reader would take for a result.
    left = [path.name for path in tmp_path.iterdir()]
    assert len(left) == (1 if named else 0)
    assert all(name.startswith(".loragraft-") and name.endswith(".tmp") for name in left)


def test_small_files(tmp_path):
    write_text_atomic(tmp_path / "x", "old")
    write_text_atomic(tmp_path / "x", "é\n")
    write_bytes_atomic(tmp_path / "y", b"\0")
    assert (tmp_path / "x").read_bytes() == b"\xc3\xa9\n"
    assert (tmp_path / "y").read_bytes() == b"\0"
    with pytest.raises(FormatError, match="make its directory first"):
        write_text_atomic(tmp_path / "no" / "x", "")
    assert sorted(tmp_path.iterdir()) == [tmp_path / "x", tmp_path / "y"]

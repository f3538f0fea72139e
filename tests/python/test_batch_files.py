"""Files under the native batch that shrink, change, vanish or never were what was said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import native_tasks as nt
from loragraft import native
from loragraft.errors import FormatError, UsageError

IO_MODES = ("mmap", "pread")


@pytest.mark.parametrize("keep", [0.5, 0.999999])
@pytest.mark.parametrize("io", IO_MODES)
def test_a_truncated_file_is_an_error_not_a_signal(tmp_path: Path, io: str, keep: float) -> None:
    paths = nt.write_pair(tmp_path, *nt.pair((700, 500)))
    for path in paths:
        whole = path.read_bytes()
        task = nt.task(*paths, "w", io=io)
        os.truncate(path, int(len(whole) * keep))
        with pytest.raises(FormatError, match=path.name):
            nt.run([task])
        path.write_bytes(whole)


@pytest.mark.parametrize("rank", [4, 0])
@pytest.mark.parametrize("io", IO_MODES)
def test_a_file_that_changed_is_an_error(tmp_path: Path, io: str, rank: int) -> None:
    paths = nt.write_pair(tmp_path, *nt.pair((80, 50)))
    for path in paths:
        task = nt.task(*paths, "w", rank, io=io)
        status = path.stat()
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))
        with pytest.raises(FormatError, match=f"{path.name}.*changed"):
            nt.run([task])


@pytest.mark.parametrize("io", IO_MODES)
def test_a_file_that_was_replaced_is_still_the_old_one(tmp_path: Path, io: str) -> None:
    paths = nt.write_pair(tmp_path, *nt.pair((80, 50)))
    (expected,) = nt.run([nt.task(*paths, "w", io=io)])
    task = nt.task(*paths, "w", io=io)
    for path in paths:
        path.unlink()
        path.write_bytes(b"something else")
    (result,) = nt.run([task])
    assert nt.fields(result) == nt.fields(expected)


def test_what_no_task_can_be_made_of(tmp_path: Path) -> None:
    base, _ = nt.write_pair(tmp_path, *nt.pair((80, 50)))
    file = native.MappedFile(str(base))
    with pytest.raises(FormatError, match="beyond the file's end"):
        native.StoredMatrix(file, file.size - 10, "F32", 2, 2)
    with pytest.raises(FormatError, match="beyond the file's end"):
        native.StoredMatrix(file, 0, "BF16", 2**20, 2**20)
    for rows, columns, offset in ((2**40, 2**40, 0), (2**63, 1, 0), (1, 1, 2**64 - 1)):
        with pytest.raises(UsageError, match="overflow"):
            native.StoredMatrix(file, offset, "F32", rows, columns)
    with pytest.raises(UsageError, match="dtype F64: expected one of BF16, F16, F32, F8_E4M3"):
        native.StoredMatrix(file, 0, "F64", 1, 1)
    with pytest.raises(UsageError, match="io mode 'aio': expected auto, mmap or pread"):
        native.MappedFile(str(base), "aio")
    for path in (tmp_path, tmp_path / "missing", Path("/dev/null")):
        with pytest.raises(FormatError, match=str(path)):
            native.MappedFile(str(path))
    one, other = (native.StoredMatrix(file, 0, "F32", rows, 4) for rows in (3, 4))
    with pytest.raises(UsageError, match="different shapes"):
        nt.run([native.ModuleTask("w", one, other, 1, 0, 1.0)])
    with pytest.raises(UsageError, match="rank 4: expected 1 to 3"):
        nt.run([native.ModuleTask("w", one, native.StoredMatrix(file, 4, "F32", 3, 4), 4, 0, 1.0)])


def test_a_fifo_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FormatError, match="not a regular file"):
        native.MappedFile(str(tmp_path / "pipe"))


def test_both_modes_are_what_they_say(tmp_path: Path) -> None:
    base, _ = nt.write_pair(tmp_path, *nt.pair((8, 5)))
    assert native.MappedFile(str(base), "mmap").mapped
    assert not native.MappedFile(str(base), "pread").mapped
    assert native.MappedFile(str(base)).size == base.stat().st_size

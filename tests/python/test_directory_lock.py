"""Two runs on one directory: the second is refused, whatever the file system can lock."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import transfer_files
from command_line import CommandLine, loragraft, pair
from loragraft.destination import Destination
from loragraft.directory_lock import LOCK_FILE, DirectoryLock
from loragraft.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    Sides = tuple[Path, Path, Path]

__all__ = ["loragraft", "pair"]

FILE_SYSTEMS = ("locks directories", "locks files", "locks nothing")


@pytest.fixture(params=FILE_SYSTEMS)
def file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A local one; NFS, which locks what is open for writing; and one without locks."""
    flock = fcntl.flock

    def failing(fd: int, operation: int) -> None:
        if request.param == "locks nothing":
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(fd, operation)

    if request.param != "locks directories":
        monkeypatch.setattr(fcntl, "flock", failing)
    return str(request.param)


@pytest.mark.usefixtures("file_system")
def test_the_second_run_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Destination(out):
        for force in (False, True):
            with pytest.raises(UsageError, match="out: another run is writing there"):
                Destination(out, force).__enter__()
        assert out.is_dir()
    assert list(out.iterdir()) == []
    with Destination(out, force=False):
        pass


@pytest.mark.usefixtures("file_system")
def test_a_directory_that_was_made_goes_with_a_run_that_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), Destination(tmp_path / "made" / "out"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["extract", "merge", "transfer", "compare"])
def test_every_command_is_refused(
    loragraft: CommandLine, pair: Sides, tmp_path: Path, file_system: str, command: str
) -> None:
    base, tuned, adapter = pair
    other = transfer_files.moved(base, tmp_path / "other", change=0.01)
    arguments: dict[str, list[Any]] = {
        "extract": [base, tuned, "--rank", "2"],
        "merge": [base, adapter],
        "transfer": [adapter, "--source", base, "--target", other, "--method", "copy"],
        "compare": [base, other],
    }
    out = tmp_path / "out"
    given = (command, *arguments[command], "-o", out)
    with Destination(out):
        before = sorted(out.iterdir())
        for more in ([], ["--force"]):
            answer = loragraft(*given, *more)
            assert answer.code == 2
            assert answer.error.startswith(f"{out}: another run is writing there")
        assert sorted(out.iterdir()) == before
    assert loragraft(*given).code == 0
    assert LOCK_FILE not in {path.name for path in out.iterdir()}, file_system


def test_a_lock_goes_with_a_killed_process(tmp_path: Path, file_system: str) -> None:
    """Also where it is a file that says whose it is."""
    patch = {
        "locks directories": "",
        "locks files": "if stat.S_ISDIR(os.fstat(fd).st_mode): raise OSError(9, 'x')",
        "locks nothing": "raise OSError(37, 'x')",
    }[file_system]
    code = f"""
import fcntl, os, pathlib, stat, sys
flock = fcntl.flock
def failing(fd, operation):
    {patch or "pass"}
    flock(fd, operation)
fcntl.flock = failing
from loragraft.destination import Destination
with Destination(pathlib.Path(sys.argv[1])):
    os.kill(os.getpid(), 9)
"""
    out = tmp_path / "out"
    done = subprocess.run([sys.executable, "-c", code, out], check=False)
    assert done.returncode == -9
    assert {path.name for path in out.iterdir()} == (
        set() if file_system == "locks directories" else {LOCK_FILE}
    )
    with Destination(out, force=False):
        pass
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("owner", ["1 another-host", "x", ""])
def test_a_lock_of_another_machine_is_not_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: str
) -> None:
    def failing(_fd: int, _operation: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(fcntl, "flock", failing)
    (tmp_path / LOCK_FILE).write_text(owner)
    with pytest.raises(UsageError, match=rf"another run.*remove {LOCK_FILE} in it if that run"):
        Destination(tmp_path).__enter__()
    assert (tmp_path / LOCK_FILE).read_text() == owner


def test_a_file_that_its_owner_removes_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs never have a lock each, one of them on a file that is gone."""
    flock, first, second = fcntl.flock, DirectoryLock(tmp_path), DirectoryLock(tmp_path)
    opened: list[int] = []

    def locks_files(fd: int, operation: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        opened.append(os.fstat(fd).st_ino)
        if len(opened) == 2:
            # The second run has opened the file; the first ends before it is locked.
            first.release()
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", locks_files)
    first.take()
    second.take()
    assert len(opened) == 3
    assert (tmp_path / LOCK_FILE).stat().st_ino == opened[2]
    with pytest.raises(UsageError, match="another run"):
        DirectoryLock(tmp_path).take()
    second.release()
    assert list(tmp_path.iterdir()) == []

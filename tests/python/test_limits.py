"""Places that take nothing, full disks and limits: one line and the right code, before the work."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import lora_files as files
import transfer_files
from loragraft import resource_limits
from loragraft.errors import FormatError
from reliability import record

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS = ("extract", "merge", "transfer", "compare")
#: Runs a command line after the process has given something up.
LIMITED = """
import os, resource, sys
from loragraft.cli.application import run
what, value = sys.argv[1], int(sys.argv[2])
if what == "powers":
    # What lets root write anywhere, by the system call: it keeps its files, Python among them.
    import ctypes
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)())
elif what != "nothing":
    resource.setrlimit(getattr(resource, what), (value, value))
sys.exit(run(sys.argv[3:]))
"""


def limited(what: str, value: int, *arguments: object) -> tuple[int, str]:
    """Return exit code and error line of a command under a limit."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, what, str(value), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "LORAGRAFT_CACHE": "off"},
    )
    assert done.returncode >= 0, f"killed by signal {-done.returncode}"
    assert done.returncode != 1, done.stderr
    return done.returncode, done.stderr


def refused(what: str, value: int, *arguments: object) -> str:
    """Return the one line of a command that a limit does not let do its work."""
    code, error = limited(what, value, *arguments)
    assert code == 3, f"{code}: {error}"
    (line,) = error.splitlines()
    assert line.startswith("loragraft: error: ")
    return line


@pytest.fixture
def commands(tmp_path: Path) -> dict[str, list[Any]]:
    base, tuned, adapter = files.noisy_pair(tmp_path)["paths"]
    other = transfer_files.moved(base, tmp_path / "other", change=0.01)
    sides = ["--source", base, "--target", other]
    return {
        "extract": ["extract", base, tuned, "--rank", "2", "--threads", "2"],
        "merge": ["merge", tuned, adapter],
        "transfer": ["transfer", adapter, *sides, "--subspace-rank", "4", "--threads", "2"],
        "compare": ["compare", base, other, "--subspace-rank", "4", "--threads", "2"],
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_a_directory_that_may_not_be_written_to(
    tmp_path: Path, commands: dict[str, list[Any]], name: str
) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o555)
    for where in (out, out / "new"):
        # Root keeps its files, but gives up what lets it write anywhere.
        line = refused("powers", 0, *commands[name], "-o", where)
        assert f"{where}: cannot be" in line
        assert "Permission denied" in line
    assert list(out.iterdir()) == []


#: Runs a command beside a small disk that is mounted for it alone: place, preparation, command.
ON_DISK = """
mount -t tmpfs -o size=64k none "$1" || exit 98
place=$1; cd "$place"; eval "$2" || exit 97; shift 2
"$@"; code=$?
[ $code -eq 0 ] || [ ! -e "$place/out" ] || [ -n "$KEPT" ] || exit 96
exit $code
"""


def on_disk(place: Path, preparation: str, *arguments: object, kept: str = "") -> tuple[int, str]:
    """Return exit code and error line of a command with a disk of 64 kB at ``place``.

    The code is 96 where a command that failed has left ``place/out``, unless it was there before
    (``kept``), and 97 or 98 where the disk could not be made.
    """
    place.mkdir(exist_ok=True)
    # Who is not root is, within a name space of their own.
    alone = ["unshare", "--mount", *([] if os.getuid() == 0 else ["--user", "--map-root-user"])]
    command = [sys.executable, "-c", LIMITED, "nothing", "0", *map(str, arguments)]
    done = subprocess.run(
        [*alone, "sh", "-c", ON_DISK, "sh", str(place), preparation, *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "LORAGRAFT_CACHE": "off", "KEPT": kept},
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("where", ["out", "new"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_that_can_only_be_read(
    tmp_path: Path, commands: dict[str, list[Any]], name: str, where: str
) -> None:
    place, prepare = tmp_path / "disk", "mkdir out && mount -o remount,ro none ."
    code, error = on_disk(place, prepare, *commands[name], "-o", place / where, kept="yes")
    assert code == 3, f"{code}: {error}"
    (line,) = error.splitlines()
    assert f"{place / where}: cannot be" in line
    assert "Read-only file system" in line


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk(tmp_path: Path, commands: dict[str, list[Any]], name: str, full: bool) -> None:
    """Full before the work begins, or of the results."""
    place, prepare = tmp_path / "disk", "head -c 61440 /dev/zero > other" if full else "true"
    code, error = on_disk(place, prepare, *commands[name], "-o", place / "out")
    if code == 0:
        assert not full
        return
    assert code == 3, f"{code}: {error}"
    assert len(error.splitlines()) == 1
    assert "No space left" in error or "free some space" in error


@pytest.mark.parametrize("name", COMMANDS)
def test_files_may_not_be_large(tmp_path: Path, commands: dict[str, list[Any]], name: str) -> None:
    out = tmp_path / "out"
    assert "File too large" in refused("RLIMIT_FSIZE", 200, *commands[name], "-o", out)
    assert not out.exists()


@pytest.mark.parametrize("megabytes", [80, 160, 250, 400, 550])
@pytest.mark.parametrize("name", COMMANDS)
def test_little_memory(
    tmp_path: Path, commands: dict[str, list[Any]], name: str, megabytes: int
) -> None:
    """Whatever the limit is, a command ends with a result or a line, never with a signal."""
    out = tmp_path / "out"
    code, error = limited("RLIMIT_AS", megabytes << 20, *commands[name], "-o", out)
    assert code in {0, 3}, f"{code}: {error}"
    if code == 3:
        assert len(error.splitlines()) == 1
        assert "memory" in error
        assert not out.exists()


def test_enough_memory_under_a_limit(tmp_path: Path, commands: dict[str, list[Any]]) -> None:
    for name in COMMANDS:
        code, error = limited("RLIMIT_AS", 2 << 30, *commands[name], "-o", tmp_path / name)
        assert code == 0, error
    record("limits", {"commands": len(COMMANDS), "killed_by_a_signal": 0})


@pytest.fixture
def sharded(tmp_path: Path) -> tuple[Path, Path]:
    """A pair in many files."""
    shapes = {f"model.layers.{layer}.mlp.up_proj.weight": (16, 8) for layer in range(60)}
    sides = []
    for number, name in enumerate(("base", "tuned")):
        rng = transfer_files.np.random.default_rng(number)
        tensors = {key: rng.standard_normal(shape) for key, shape in shapes.items()}
        stored = {key: value.astype("float32") for key, value in tensors.items()}
        sides.append(files.write_checkpoint(tmp_path / name, stored, shards=60))
    return sides[0], sides[1]


@pytest.mark.parametrize("limit", [20, 64, 130])
def test_many_files_and_few_that_may_be_open(
    tmp_path: Path, sharded: tuple[Path, Path], limit: int
) -> None:
    command = ["extract", *sharded, "--rank", "2", "-o", tmp_path / "out"]
    line = refused("RLIMIT_NOFILE", limit, *command)
    assert "files must be open at once" in line
    assert f"the limit is {limit}: raise it (ulimit -n)" in line
    assert not (tmp_path / "out").exists()


def test_a_soft_limit_on_open_files_is_raised(tmp_path: Path, sharded: tuple[Path, Path]) -> None:
    code = (
        "import resource, sys; from loragraft.cli.application import run\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (40, 1000))\n"
        "sys.exit(run(sys.argv[1:]))"
    )
    command = ["extract", *sharded, "--rank", "2", "-o", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, command)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_system_without_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    infinite = (resource_limits.resource.RLIM_INFINITY,) * 2
    monkeypatch.setattr(resource_limits.resource, "getrlimit", lambda _which: infinite)
    assert resource_limits.address_space() is None
    resource_limits.check_address_space(1000, 1 << 50)
    resource_limits.check_open_files(10**9)
    resource_limits.check_start()
    monkeypatch.setattr(resource_limits.resource, "getrlimit", lambda _which: (1 << 20, 1 << 20))
    with pytest.raises(FormatError, match="not enough memory"):
        resource_limits.check_start()

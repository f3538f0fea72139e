"""Checkpoints that shrink, change or go while they are read: one clear error, never a signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import numpy as np
import pytest

import lora_files as files
import native_tasks as nt
from command_line import write_pair
from loragraft import compare, extract, merge, native, verify
from loragraft.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

IO_MODES = ("mmap", "pread")
#: One matrix in float32, which the kernels read again in every pass.
ONE = {"model.layers.0.mlp.up_proj.weight": (768, 768)}
#: Reads a matrix, of a file that is cut short when it is mapped already.
READ = """
import os, sys
from loragraft import native
path, rows, cols, call = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
file = native.MappedFile(path, sys.argv[5])
matrix = native.StoredMatrix(file, 0, "F32", rows, cols)
os.truncate(path, 4096)
try:
    if call == "norm":
        native.frobenius_norm(matrix, 2)
    elif call == "subspaces":
        native.leading_subspaces(matrix, 4, None, 0, 2)
    else:
        import numpy as np
        native.unit_lines_times(
            matrix, False, np.ones(cols, np.float32), np.ones((cols, 2), np.float32), 2
        )
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""


def child(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a program that SIGBUS may end."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "LORAGRAFT_CACHE": "off"},
    )


@pytest.mark.parametrize("io", IO_MODES)
@pytest.mark.parametrize("call", ["norm", "subspaces", "unit lines"])
def test_a_matrix_of_a_file_that_was_cut_short(tmp_path: Path, call: str, io: str) -> None:
    path = tmp_path / "numbers"
    np.random.default_rng(0).standard_normal((300, 200)).astype(np.float32).tofile(path)
    done = child(READ, path, 300, 200, call, io)
    assert done.returncode == 0, f"{done.returncode} {done.stderr}"
    assert done.stdout.startswith(f"FormatError: {path}: ")
    assert "truncated" in done.stdout or "changed while it was read" in done.stdout


#: Cuts a file short at a moment of an extraction, and says how that ended.
EXTRACT = """
import os, sys, threading
from loragraft import extract
base, tuned, out, io, after, victim = sys.argv[1:]
threading.Timer(float(after), os.truncate, (victim, 5000)).start()
try:
    extract(base, tuned, out, rank=96, power_iterations=60, threads=2, io=io)
    print("done")
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""


@pytest.mark.parametrize("after", [0.05, 0.2, 0.4])
@pytest.mark.parametrize("side", ["base", "tuned"])
@pytest.mark.parametrize("io", IO_MODES)
def test_a_file_cut_short_in_the_middle(tmp_path: Path, io: str, side: str, after: float) -> None:
    rng = np.random.default_rng(0)
    base = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in ONE.items()}
    tuned = {
        name: (w + 0.1 * rng.standard_normal(w.shape)).astype(np.float32)
        for name, w in base.items()
    }
    sides = [
        files.write_checkpoint(tmp_path / name, tensors)
        for name, tensors in (("base", base), ("tuned", tuned))
    ]
    victim = tmp_path / side / "model.safetensors"
    done = child(EXTRACT, *sides, tmp_path / "out", io, after, victim)
    assert done.returncode == 0, f"{done.returncode} {done.stderr}"
    assert done.stdout.startswith("FormatError: "), done.stdout
    assert str(victim) in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert not (tmp_path / "out").exists()


#: Meets a SIGBUS of its own when the kernels have mapped a file.
FOREIGN = """
import faulthandler, mmap, os, sys
from loragraft import native
path, other, when = sys.argv[1:]
if when == "before":
    faulthandler.enable()
file = native.MappedFile(path, "mmap")
if when == "after":
    faulthandler.enable()
if when == "between":
    faulthandler.enable()
    again = native.MappedFile(path, "mmap")
with open(other, "r+b") as opened:
    mapped = mmap.mmap(opened.fileno(), 8192)
    opened.truncate(0)
    print("reading", flush=True)
    print(mapped[5000])
"""


@pytest.mark.parametrize("when", ["never", "before", "after", "between"])
def test_a_signal_of_somebody_else_is_left_to_whoever_handled_it(tmp_path: Path, when: str) -> None:
    """Also where another handler came before ours, after it, or in between."""
    for name in ("path", "other"):
        (tmp_path / name).write_bytes(bytes(8192))
    done = child(FOREIGN, tmp_path / "path", tmp_path / "other", when)
    assert done.returncode == -signal.SIGBUS
    assert done.stdout == "reading\n"
    assert ("Bus error" in done.stderr) == (when != "never")


def test_many_maps_come_and_go(tmp_path: Path) -> None:
    """A place in memory that was lost once is not lost for the next file there."""
    (tmp_path / "file").write_bytes(np.arange(4096, dtype=np.float32).tobytes())
    for _ in range(300):
        file = native.MappedFile(str(tmp_path / "file"), "mmap")
        assert native.frobenius_norm(native.StoredMatrix(file, 0, "F32", 64, 64), 1) > 0.0
        del file


def _cut(path: Path) -> None:
    os.truncate(path, 4096)


def _rewrite(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-4] + b"\0\0\0\0")
    os.utime(path, ns=(1, 1))


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path, Path]:
    shapes = {f"model.layers.{i}.mlp.up_proj.weight": (96, 64) for i in range(6)}
    base, tuned = write_pair(tmp_path, shapes)
    extract(base, tuned, tmp_path / "adapter", rank=4)
    return base, tuned, tmp_path / "adapter"


def _after_the_first(act: Callable[[], None]) -> Callable[[str, int, int], None]:
    calls: list[int] = []

    def progress(_what: str, _done: int, _total: int) -> None:
        calls.append(1)
        if len(calls) == 1:
            act()

    return progress


@pytest.mark.parametrize("change", [_cut, _rewrite])
@pytest.mark.parametrize("command", ["merge", "verify", "compare"])
def test_a_file_that_changes_after_the_first_tensor(
    tmp_path: Path,
    models: tuple[Path, Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    change: Callable[[Path], None],
) -> None:
    monkeypatch.setenv("LORAGRAFT_CACHE", str(tmp_path / "cache"))
    base, tuned, adapter = models
    out = tmp_path / "out"
    progress = _after_the_first(lambda: change(base / "model.safetensors"))
    calls: dict[str, Callable[[], object]] = {
        "merge": lambda: merge(base, adapter, out, progress=progress),
        "verify": lambda: verify(base, tuned, adapter, progress=progress),
        "compare": lambda: compare(base, tuned, out, subspace_rank=4, threads=1, progress=progress),
    }
    with pytest.raises(FormatError, match=r"base/model\.safetensors: (changed|ended|could not)"):
        calls[command]()
    assert not out.exists()


def test_subspaces_of_a_file_that_goes_are_not_kept(
    tmp_path: Path, models: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would be found again under the digest of what the file held before."""
    monkeypatch.setenv("LORAGRAFT_CACHE", str(tmp_path / "cache"))
    compute = native.leading_subspaces

    def late(*arguments: object) -> object:
        _rewrite(models[0] / "model.safetensors")
        return compute(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(native, "leading_subspaces", late)
    with pytest.raises(FormatError, match="changed while it was read"):
        compare(*models[:2], subspace_rank=4, threads=1)
    assert not list((tmp_path / "cache").rglob("*.subspace"))


@pytest.mark.parametrize("io", IO_MODES)
@pytest.mark.parametrize("how", ["replaced", "removed"])
def test_a_file_that_is_replaced_or_removed_is_read_to_its_end(
    tmp_path: Path, models: tuple[Path, Path, Path], how: str, io: str
) -> None:
    """What was opened stays what it was: the result is that of the old file."""
    base, tuned, adapter = models
    path = base / "model.safetensors"

    def act() -> None:
        (tmp_path / "other").write_bytes(b"something else")
        path.unlink() if how == "removed" else (tmp_path / "other").replace(path)

    out = tmp_path / "out"
    extract(base, tuned, out, rank=4, io=io, report=False, progress=_after_the_first(act))
    name = "adapter_model.safetensors"
    assert (out / name).read_bytes() == (adapter / name).read_bytes()


@pytest.mark.parametrize("io", IO_MODES)
def test_a_file_that_cannot_be_read(tmp_path: Path, io: str) -> None:
    """The disk fails under a file: here a file that was cut short between two tasks."""
    paths = nt.write_pair(tmp_path, *nt.pair((700, 500)))
    tasks = [nt.task(*paths, "w", io=io) for _ in range(2)]
    assert len(nt.run(tasks[:1])) == 1
    os.truncate(paths[0], 4096)
    with pytest.raises(FormatError, match=paths[0].name):
        nt.run(tasks[1:])

"""An extraction that was stopped goes on where it was, to the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

import lora_files as files
from command_line import write_pair
from loragraft import extract
from loragraft.errors import StoppedError, UsageError
from loragraft.extraction.journal import JOURNAL_FILE

if TYPE_CHECKING:
    from pathlib import Path

SHAPES = {f"model.layers.{i}.mlp.up_proj.weight": (96, 64) for i in range(6)}
LEFTOVERS = {".loragraft-journal", ".loragraft-spool"}


def _stop_after(count: int):
    """A progress callback at whose `count`-th call somebody presses Ctrl-C."""
    calls = 0

    def progress(_what: str, _done: int, _total: int) -> None:
        nonlocal calls
        calls += 1
        if calls == count:
            raise KeyboardInterrupt

    return progress


def _calls() -> tuple[list[int], object]:
    seen: list[int] = []
    return seen, lambda _what, done, _total: seen.append(done)


def _bytes(directory: Path) -> dict[str, bytes]:
    names = ("adapter_model.safetensors", "adapter_config.json")
    return {name: (directory / name).read_bytes() for name in names}


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    base, tuned = write_pair(tmp_path, SHAPES)
    return base, tuned


@pytest.mark.parametrize("count", [1, 3, 6])
def test_the_same_bytes_and_no_work_twice(tmp_path: Path, pair, count: int) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    extract(*pair, whole, rank=4)
    with pytest.raises(StoppedError, match=rf"stopped after {count} of 6 .*--resume continues"):
        extract(*pair, out, rank=4, threads=1, progress=_stop_after(count))
    assert {path.name for path in out.iterdir()} == LEFTOVERS
    seen, progress = _calls()
    extract(*pair, out, rank=4, resume=True, progress=progress)
    assert len(seen) == 6 - count
    assert _bytes(out) == _bytes(whole)
    assert not LEFTOVERS & {path.name for path in out.iterdir()}


def test_stopped_twice(tmp_path: Path, pair) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    extract(*pair, whole, rank=4)
    for _ in range(2):
        with pytest.raises(StoppedError):
            extract(*pair, out, rank=4, threads=1, resume=True, progress=_stop_after(2))
    seen, progress = _calls()
    extract(*pair, out, rank=4, resume=True, progress=progress)
    assert len(seen) == 2
    assert _bytes(out) == _bytes(whole)


@pytest.mark.parametrize("damage", ["cut journal", "torn line", "cut spool", "flipped byte"])
def test_what_a_crash_damaged_is_computed_again(tmp_path: Path, pair, damage: str) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    extract(*pair, whole, rank=4)
    with pytest.raises(StoppedError):
        extract(*pair, out, rank=4, threads=1, progress=_stop_after(4))
    journal, spool = out / JOURNAL_FILE, out / ".loragraft-spool"
    if damage == "cut journal":
        journal.write_bytes(b"\n".join(journal.read_bytes().split(b"\n")[:3]) + b"\n")
    elif damage == "torn line":
        journal.write_bytes(journal.read_bytes()[:-20])
    elif damage == "cut spool":
        os.truncate(spool, spool.stat().st_size - 7)
    else:
        data = bytearray(spool.read_bytes())
        data[len(data) // 2] ^= 1
        spool.write_bytes(data)
    seen, progress = _calls()
    extract(*pair, out, rank=4, resume=True, progress=progress)
    assert 2 < len(seen) < 6
    assert _bytes(out) == _bytes(whole)


@pytest.mark.parametrize("left", [b"", b'{"finger', b'{"fingerprint": "0123"}'])
def test_a_journal_that_was_never_begun(tmp_path: Path, pair, left: bytes) -> None:
    """A run was killed while it wrote the first line."""
    out = tmp_path / "out"
    extract(*pair, tmp_path / "whole", rank=4)
    out.mkdir()
    (out / JOURNAL_FILE).write_bytes(left)
    if left.endswith(b"}"):
        with pytest.raises(UsageError, match="unfinished run of other inputs"):
            extract(*pair, out, rank=4, resume=True)
        return
    extract(*pair, out, rank=4, resume=True)
    assert _bytes(out) == _bytes(tmp_path / "whole")


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"force": True}])
def test_what_killed_runs_left_is_in_nobodys_way(tmp_path: Path, pair, options) -> None:
    """A spool without a journal and temporary files are removed; other files are not."""
    out = tmp_path / "out"
    out.mkdir()
    (out / ".loragraft-spool").write_bytes(b"factors")
    (out / ".loragraft-123-0123456789abcdef.tmp").write_bytes(b"half")
    if options.get("force"):
        (out / ".loragraft-notes").write_bytes(b"mine")
    extract(*pair, out, rank=4, **options)
    hidden = {path.name for path in out.iterdir() if path.name[0] == "."}
    assert hidden == ({".loragraft-notes"} if options.get("force") else set())


def test_a_spool_left_beside_a_finished_adapter(tmp_path: Path, pair) -> None:
    out = tmp_path / "out"
    extract(*pair, out, rank=4)
    (out / ".loragraft-spool").write_bytes(b"factors")
    with pytest.raises(UsageError, match="there is nothing to resume"):
        extract(*pair, out, rank=4, resume=True)
    assert not LEFTOVERS & {path.name for path in out.iterdir()}


def test_other_options_are_another_run(tmp_path: Path, pair) -> None:
    out = tmp_path / "out"
    with pytest.raises(StoppedError):
        extract(*pair, out, rank=4, threads=1, progress=_stop_after(2))
    for change in ({"rank": 5}, {"rank": 4, "seed": 1}, {"rank": 4, "dtype": "fp32"}):
        with pytest.raises(UsageError, match=r"unfinished run of other inputs.*--force"):
            extract(*pair, out, resume=True, **change)
    assert {path.name for path in out.iterdir()} == LEFTOVERS
    with pytest.raises(UsageError, match=r"not finished.*--resume.*--force"):
        extract(*pair, out, rank=4)
    extract(*pair, out, rank=5, force=True)
    assert json.loads((out / "adapter_config.json").read_text())["r"] == 5
    assert not LEFTOVERS & {path.name for path in out.iterdir()}


def test_nothing_to_resume(tmp_path: Path, pair) -> None:
    """A script may always say --resume: the first time it starts, a finished one stays."""
    out = tmp_path / "out"
    extract(*pair, out, rank=4, resume=True)
    before = _bytes(out)
    with pytest.raises(UsageError, match="finished: there is nothing to resume"):
        extract(*pair, out, rank=4, resume=True)
    assert _bytes(out) == before


def test_inputs_that_changed_meanwhile(tmp_path: Path, pair) -> None:
    out = tmp_path / "out"
    with pytest.raises(StoppedError):
        extract(*pair, out, rank=4, threads=1, progress=_stop_after(2))
    os.utime(pair[1] / "model.safetensors", ns=(1, 1))
    with pytest.raises(UsageError, match="unfinished run of other inputs"):
        extract(*pair, out, rank=4, resume=True)


def test_a_killed_process(tmp_path: Path) -> None:
    shapes = {f"model.layers.{i}.mlp.up_proj.weight": (512, 512) for i in range(16)}
    base, tuned = write_pair(tmp_path, shapes)
    whole, out = tmp_path / "whole", tmp_path / "out"
    options = ["--rank", "64", "--power-iterations", "20", "--threads", "1"]
    extract(base, tuned, whole, rank=64, power_iterations=20)
    code = "from loragraft.cli import main; main()"
    command = [sys.executable, "-c", code, "extract", base, tuned, "-o", out, *options]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        journal, deadline = out / JOURNAL_FILE, time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            if journal.exists() and journal.read_bytes().count(b"\n") > 2:
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "it was done before it could be killed"
    assert not (out / "adapter_config.json").exists()
    seen, progress = _calls()
    extract(base, tuned, out, rank=64, power_iterations=20, resume=True, progress=progress)
    assert len(seen) < 16
    assert _bytes(out) == _bytes(whole)


def test_factors_of_random_weights_survive(tmp_path: Path) -> None:
    """A real small model, attention and MLP, stopped in the middle."""
    base = files.random_weights()
    rng = np.random.default_rng(1)
    tuned = {
        name: (array.astype(np.float32) + 0.01 * rng.standard_normal(array.shape)).astype(
            array.dtype
        )
        for name, array in base.items()
    }
    sides = (
        files.write_checkpoint(tmp_path / "base", base),
        files.write_checkpoint(tmp_path / "tuned", tuned),
    )
    extract(*sides, tmp_path / "whole", rank=2)
    with pytest.raises(StoppedError):
        extract(*sides, tmp_path / "out", rank=2, threads=1, progress=_stop_after(3))
    extract(*sides, tmp_path / "out", rank=2, resume=True)
    assert _bytes(tmp_path / "out") == _bytes(tmp_path / "whole")

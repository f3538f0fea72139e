"""The life of a `native.Batch`: stopping, ending, calls back into Python, failures."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import native_tasks as nt
from loragraft import native
from loragraft.errors import NonFiniteError, StoppedError, UsageError

U32 = 2.0**-24


def long_job(directory: Path, count: int = 400) -> list[native.ModuleTask]:
    """Noise on noise: the slowest of spectra; several seconds of work on any machine."""
    rng = np.random.default_rng(0)
    sides = [rng.standard_normal((3000, 700)).astype(np.float32) for _ in range(2)]
    paths = nt.write_pair(directory, sides[0], sides[1])
    return [nt.task(*paths, "w", 16, key=key) for key in range(count)]


def wait_for_the_end(batch: native.Batch) -> None:
    while not batch.exhausted:
        batch.next(5.0)


@pytest.mark.parametrize(("count", "iterations"), [(400, None), (1, 2000)])
def test_cancel_stops_within_a_second(tmp_path: Path, count: int, iterations: int | None) -> None:
    """Between the tasks of a long row, and in the midst of one that would take many seconds."""
    batch = native.Batch(long_job(tmp_path, count), 8, iterations, "auto", None, 2)
    assert batch.next(0.0) is None
    time.sleep(0.3)
    start = time.monotonic()
    batch.cancel()
    with pytest.raises(StoppedError, match="stopped"):
        wait_for_the_end(batch)
    batch.close()
    assert time.monotonic() - start < 1.0
    assert not batch.exhausted


def test_close_and_deletion_with_work_pending(tmp_path: Path) -> None:
    tasks = long_job(tmp_path)
    for end in (native.Batch.close, lambda batch: None):
        batch = native.Batch(tasks, 8, None, "auto", None, 2)
        time.sleep(0.1)
        start = time.monotonic()
        end(batch)
        del batch
        assert time.monotonic() - start < 1.0


def test_closing_twice_and_after_the_end(tmp_path: Path) -> None:
    paths = nt.write_pair(tmp_path, *nt.pair((40, 30)))
    batch = native.Batch([nt.task(*paths, "w")], 8, None, "auto", None, 2)
    wait_for_the_end(batch)
    assert batch.next(10.0) is None
    batch.close()
    batch.close()
    empty = native.Batch([], 8, None, "auto", None, 2)
    assert empty.exhausted
    assert empty.next(10.0) is None


DELETED_WHILE_CALLING = """
import sys, threading, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import native_tasks as nt
from loragraft import native

inside = threading.Event()

def choose(*_):
    inside.set()
    time.sleep(0.3)  # without the GIL, which it then needs again
    return 1

paths = Path(sys.argv[2]), Path(sys.argv[3])
batch = native.Batch([nt.task(*paths, "w")] * 3, 8, None, "auto", choose, 2)
inside.wait()
{end}
print("ended")
"""


@pytest.mark.parametrize("end", ["del batch", "batch.close()", "batch.cancel(); batch.close()"])
def test_ending_while_python_chooses_a_rank(tmp_path: Path, end: str) -> None:
    """In a process of its own: a deadlock must not take the suite with it."""
    paths = nt.write_pair(tmp_path, *nt.pair((80, 50)))
    script = DELETED_WHILE_CALLING.format(end=end)
    done = subprocess.run(
        [sys.executable, "-c", script, str(Path(__file__).parent), *map(str, paths)],
        capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(native.__file__).parents[1])},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "ended\n"), done.stderr


def test_choose_rank(tmp_path: Path) -> None:
    base, tuned = nt.pair((80, 50))
    paths = (
        nt.write(tmp_path / "a", {"w": base, "same": base}),
        nt.write(tmp_path / "b", {"w": tuned, "same": base}),
    )
    calls: list[tuple[int, list[float], float, float]] = []

    def choose(index: int, values: list[float], delta_square: float, rounding: float) -> int:
        calls.append((index, values, delta_square, rounding))
        return (3, 0, 1)[index % 3]

    tasks = [nt.task(*paths, "w", 6), nt.task(*paths, "w", 6), nt.task(*paths, "same", 6)]
    three, none, same = nt.run([*tasks, nt.task(*paths, "w", 0)], choose_rank=choose)[:3]
    # Neither unchanged tensors nor measured ones have a rank to choose.
    assert sorted(call[0] for call in calls) == [0, 1]
    (fixed,) = nt.run([nt.task(*paths, "w", 6)])
    for _, values, delta_square, rounding in calls:
        assert values == fixed.singular_values
        assert len(values) == 6
        assert (delta_square, rounding) == (fixed.delta_square, fixed.rounding_square)
    assert (three.rank, none.rank, same.rank) == (3, 0, 0)
    assert three.singular_values == none.singular_values == fixed.singular_values
    assert (none.lora_a, none.lora_b) == (b"", b"")
    # The factors are the leading part of those of the full rank.
    b, a = nt.factors(three, (80, 50))
    whole_b, whole_a = nt.factors(fixed, (80, 50))
    np.testing.assert_array_equal(b, whole_b[:, :3])
    np.testing.assert_array_equal(a, whole_a[:3])
    delta = nt.delta(base, tuned)
    norm = float(np.linalg.norm(delta))
    assert three.residual_square**0.5 == pytest.approx(
        float(np.linalg.norm(delta - b @ a)), abs=U32 * 5 * 2 * norm
    )


def test_an_exception_in_choose_rank_comes_out(tmp_path: Path) -> None:
    paths = nt.write_pair(tmp_path, *nt.pair((80, 50)))

    def choose(*_: object) -> int:
        raise KeyError("no rank for this one")

    batch = native.Batch([nt.task(*paths, "w")] * 20, 8, None, "auto", choose, 3)
    with pytest.raises(KeyError, match="no rank for this one"):
        wait_for_the_end(batch)
    # The failed batch stays failed, and says so however often it is asked.
    for _ in range(2):
        with pytest.raises(StoppedError, match="failed"):
            batch.next(1.0)
    batch.close()
    with pytest.raises(UsageError, match="rank 9 chosen of 4 computed"):
        nt.run([nt.task(*paths, "w")], choose_rank=lambda *_: 9)


def test_the_first_bad_tensor_stops_the_batch(tmp_path: Path) -> None:
    base, tuned = nt.pair((80, 50))
    bad = tuned.copy()
    bad[0, 0] = np.nan
    paths = (
        nt.write(tmp_path / "a", {"good": base, "bad": base}),
        nt.write(tmp_path / "b", {"good": tuned, "bad": bad}),
    )
    names = ["good"] * 5 + ["bad"] + ["good"] * 200
    batch = native.Batch([nt.task(*paths, name) for name in names], 8, None, "auto", None, 2)
    with pytest.raises(NonFiniteError, match="'bad'"):
        wait_for_the_end(batch)
    batch.close()

"""The life of a `native.Batch`: stopping, ending, failures."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

import native_tasks as nt
from loragraft import native
from loragraft.errors import NonFiniteError, StoppedError

if TYPE_CHECKING:
    from pathlib import Path


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
    batch = native.Batch(long_job(tmp_path, count), 8, iterations, "auto", 2)
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
        batch = native.Batch(tasks, 8, None, "auto", 2)
        time.sleep(0.1)
        start = time.monotonic()
        end(batch)
        del batch
        assert time.monotonic() - start < 1.0


def test_closing_twice_and_after_the_end(tmp_path: Path) -> None:
    paths = nt.write_pair(tmp_path, *nt.pair((40, 30)))
    batch = native.Batch([nt.task(*paths, "w")], 8, None, "auto", 2)
    wait_for_the_end(batch)
    assert batch.next(10.0) is None
    batch.close()
    batch.close()
    empty = native.Batch([], 8, None, "auto", 2)
    assert empty.exhausted
    assert empty.next(10.0) is None


def test_a_failed_batch_stays_failed(tmp_path: Path) -> None:
    """And says so however often it is asked."""
    base, tuned = nt.pair((80, 50))
    tuned[1, 2] = np.inf
    paths = nt.write_pair(tmp_path, base, tuned)
    batch = native.Batch([nt.task(*paths, "w")] * 20, 8, None, "auto", 3)
    with pytest.raises(NonFiniteError, match="'w'"):
        wait_for_the_end(batch)
    for _ in range(2):
        with pytest.raises(StoppedError, match="failed"):
            batch.next(1.0)
    batch.close()


def test_the_first_bad_tensor_stops_the_batch(tmp_path: Path) -> None:
    base, tuned = nt.pair((80, 50))
    bad = tuned.copy()
    bad[0, 0] = np.nan
    paths = (
        nt.write(tmp_path / "a", {"good": base, "bad": base}),
        nt.write(tmp_path / "b", {"good": tuned, "bad": bad}),
    )
    names = ["good"] * 5 + ["bad"] + ["good"] * 200
    batch = native.Batch([nt.task(*paths, name) for name in names], 8, None, "auto", 2)
    with pytest.raises(NonFiniteError, match="'bad'"):
        wait_for_the_end(batch)
    batch.close()

"""`extract` when things go wrong on the way: nothing left, and an old adapter whole or gone."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from typing import TYPE_CHECKING, Any

import pytest

import extraction_checks as checks
import lora_files as files
from loragraft.errors import FormatError, NothingToAdaptError, StoppedError
from loragraft.extraction import extract
from loragraft.verification import verify

if TYPE_CHECKING:
    from pathlib import Path

RANK = 6


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    case = checks.noise_pair(tmp_path, files.SHAPES | checks.SKETCHED)
    return case["paths"]  # type: ignore[no-any-return]


def _full_after(monkeypatch: pytest.MonkeyPatch, calls: int) -> list[int]:
    """Let the disk be full from a number of writes on; returns the sizes written."""
    written: list[int] = []
    write = os.pwrite

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        if len(written) >= calls:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(len(data))
        return write(fd, data, offset)

    monkeypatch.setattr("os.pwrite", pwrite)
    return written


def _count_writes(monkeypatch: pytest.MonkeyPatch, pair: tuple[Path, Path], out: Path) -> int:
    with monkeypatch.context() as patch:
        written = _full_after(patch, 10**6)
        extract(*pair, out, rank=RANK)
    shutil.rmtree(out)
    return len(written)


def test_a_disk_that_fills_up(
    tmp_path: Path, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the first write, in the spool, in the tensors, and at the very last."""
    total = _count_writes(monkeypatch, pair, tmp_path / "out")
    assert total > 32  # two per factor: to the spool and to the file
    for calls in (0, 1, 9, 17, 24, total - 3, total - 2, total - 1):
        with monkeypatch.context() as patch:
            _full_after(patch, calls)
            checks.refused(
                FormatError,
                "out.*cannot be written: No space left on device.*free some space",
                lambda: extract(*pair, tmp_path / "out", rank=RANK),
                tmp_path,
            )


def test_a_disk_without_room_for_the_file(
    tmp_path: Path, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fallocate(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.posix_fallocate", fallocate)
    checks.refused(
        FormatError,
        f"{checks.TENSORS}: cannot be written: No space left",
        lambda: extract(*pair, tmp_path / "new" / "out", rank=RANK),
        tmp_path,
    )


def test_a_disk_that_fills_up_over_an_old_adapter(
    tmp_path: Path, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While factors are computed the old one stays; after that nothing passes for an adapter."""
    total = _count_writes(monkeypatch, pair, tmp_path / "out")
    out = tmp_path / "out"
    for calls in (0, 9, 17, 24, total - 2, total - 1):
        extract(*pair, out, rank=2, force=True)
        (out / "notes.txt").write_text("mine")
        before = checks.contents(out)
        with monkeypatch.context() as patch:
            _full_after(patch, calls)
            with pytest.raises(FormatError, match="No space left on device"):
                extract(*pair, out, rank=RANK, force=True)
        after = checks.contents(out)
        assert after in (before, {"notes.txt": b"mine"})
        if calls <= 9:
            assert after == before
        if calls >= total - 2:
            assert after != before


def test_an_old_adapter_survives_bad_input(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    out = tmp_path / "out"
    extract(*pair, out, rank=2)
    shutil.copy(pair[0] / "model.safetensors", pair[1])
    checks.refused(
        NothingToAdaptError,
        "nothing to adapt",
        lambda: extract(*pair, out, force=True),
        tmp_path,
    )


def test_an_old_file_that_cannot_be_removed(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    out = tmp_path / "out"
    (out / checks.CONFIG).mkdir(parents=True)
    checks.refused(
        FormatError,
        f"{checks.CONFIG}: cannot be removed: Is a directory",
        lambda: extract(*pair, out, rank=2, force=True),
        tmp_path,
    )


@pytest.mark.parametrize("after", [1, 4, 8, 11])
@pytest.mark.parametrize("place", ["out", "new/out", None])
def test_interrupted(
    tmp_path: Path, pair: tuple[Path, Path], after: int, place: str | None
) -> None:
    calls: list[int] = []

    def progress(_: str, done: int, total: int) -> None:
        assert 0 < done <= total
        calls.append(done)
        if len(calls) == after:
            raise KeyboardInterrupt

    out = None if place is None else tmp_path / place
    before = threading.active_count()
    kept = set()
    if out is not None:
        kept = {out / name for name in checks.UNFINISHED}
        kept |= {place for place in (out, *out.parents) if tmp_path in place.parents}
    checks.refused(
        StoppedError,
        "nothing was written" if out is None else f"stopped after {after} of 13 matrices; --resume",
        lambda: extract(*pair, out, rank=RANK, progress=progress),
        tmp_path,
        kept=kept,
    )
    assert len(calls) == after
    assert threading.active_count() == before


def test_interrupted_over_an_old_adapter(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    out = tmp_path / "out"
    extract(*pair, out, rank=2)

    def progress(*_: object) -> None:
        raise KeyboardInterrupt

    checks.refused(
        StoppedError,
        "stopped",
        lambda: extract(*pair, out, rank=RANK, force=True, progress=progress),
        tmp_path,
        kept={out / name for name in checks.UNFINISHED},
    )
    assert len(verify(*pair, out).modules) == 8


@pytest.mark.parametrize(
    "name", [checks.TENSORS, "report.json", "report.html", "README.md", checks.CONFIG]
)
def test_interrupted_while_writing(
    tmp_path: Path, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Ctrl-C between two files leaves neither of them, and what can be continued."""
    from loragraft.atomic_file import AtomicFile

    commit = AtomicFile.commit

    def stop(file: AtomicFile) -> None:
        if file.path.name == name:
            raise KeyboardInterrupt
        commit(file)

    monkeypatch.setattr(AtomicFile, "commit", stop)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((KeyboardInterrupt, StoppedError)):
        extract(*pair, tmp_path / "new" / "out", rank=2)
    out = tmp_path / "new" / "out"
    kept = [out.parent, out, *(out / name for name in checks.UNFINISHED)]
    assert sorted(tmp_path.rglob("*")) == sorted([*before, *kept])
    monkeypatch.undo()
    extract(*pair, out, rank=2, resume=True)
    assert verify(*pair, out).modules


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_progress_callback_that_fails(
    tmp_path: Path, pair: tuple[Path, Path], in_memory: bool
) -> None:
    class PeculiarError(Exception):
        pass

    def progress(*_: object) -> None:
        raise PeculiarError("mine")

    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(PeculiarError, match="mine"):
        extract(*pair, None if in_memory else tmp_path / "new" / "out", progress=progress)
    assert sorted(tmp_path.rglob("*")) == before


def test_progress_counts_every_byte(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    calls: list[tuple[str, int, int]] = []
    report = extract(*pair, tmp_path / "out", progress=lambda *call: calls.append(call)).report
    assert {(what, total) for what, _, total in calls} == {("extract", report.summary.bytes_read)}
    done = [done for _, done, _ in calls]
    assert done == sorted(set(done))
    assert done[-1] == report.summary.bytes_read
    assert len(done) == len(report.tensors)

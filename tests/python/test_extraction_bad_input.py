"""`extract` with input or an output directory that it must refuse: one line, nothing written."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import extraction_checks as checks
import lora_files as files
from loragraft.architecture.selection import Selection
from loragraft.errors import FormatError, LoragraftError, NonFiniteError, UsageError
from loragraft.extraction import (
    ExtractOptions,
    extract,
    parse_rank,
    plan_extraction,
    run_plan,
)

DiskUsage = namedtuple("DiskUsage", ["total", "used", "free"])
UP0 = "model.layers.0.mlp.up_proj"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    base, tuned, _ = files.noisy_pair(tmp_path)["paths"]
    return base, tuned


@pytest.mark.parametrize("side", ["base", "tuned"])
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    ("name", "index"),
    [
        (f"{UP0}.weight", (2299, 47)),
        (f"{UP0}.weight", (37, 0)),
        (f"{files.Q0}.weight", (3, 21)),
        ("lm_head.weight", (39, 5)),
    ],
)
def test_nan_and_inf(
    tmp_path: Path, side: str, dtype: str, value: str, name: str, index: tuple[int, int]
) -> None:
    shapes = {
        f"{UP0}.weight": (2300, 48),
        f"{files.Q0}.weight": (24, 24),
        "lm_head.weight": (40, 6),
    }
    case = checks.noise_pair(tmp_path / "clean", shapes, dtypes=(dtype, dtype))
    case[side][name][index] = float(value)
    sides = [files.write_checkpoint(tmp_path / part, case[part]) for part in ("base", "tuned")]
    kind = "NaN" if value == "nan" else "Inf"
    message = checks.refused(
        NonFiniteError,
        rf"'{name}': {kind} at \[{index[0]}, {index[1]}\]",
        lambda: extract(*sides, tmp_path / "out", rank=4),
        tmp_path,
    )
    assert str(tmp_path / side / "model.safetensors") in message
    checks.refused(NonFiniteError, name, lambda: extract(*sides, rank=4), tmp_path)


def test_nan_in_a_vector(tmp_path: Path) -> None:
    case = checks.noise_pair(tmp_path / "clean", files.SHAPES)
    case["tuned"]["model.norm.weight"][7] = np.nan
    sides = [files.write_checkpoint(tmp_path / part, case[part]) for part in ("base", "tuned")]
    checks.refused(
        NonFiniteError,
        r"'model\.norm\.weight': NaN at \[(0, )?7\]",
        lambda: extract(*sides, tmp_path / "out", rank=4),
        tmp_path,
    )


def test_a_difference_beyond_float32(tmp_path: Path) -> None:
    base = files.random_weights(dtype="F32")
    tuned = dict(base)
    base[f"{files.Q0}.weight"] = np.full((24, 24), 3e38, np.float32)
    tuned[f"{files.Q0}.weight"] = np.full((24, 24), -3e38, np.float32)
    sides = [
        files.write_checkpoint(tmp_path / "base", base),
        files.write_checkpoint(tmp_path / "tuned", tuned),
    ]
    checks.refused(
        NonFiniteError,
        "q_proj.*overflow float32",
        lambda: extract(*sides, tmp_path / "out", rank=2),
        tmp_path,
    )


def test_a_truncated_file(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    shard = sorted(pair[1].glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-10])
    checks.refused(FormatError, shard.name, lambda: extract(*pair, tmp_path / "out"), tmp_path)


def test_checkpoints_that_do_not_exist(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    for sides in ((pair[0], tmp_path / "none"), (tmp_path / "none", pair[1])):
        checks.refused(
            FormatError, "none", lambda sides=sides: extract(*sides, tmp_path / "out"), tmp_path
        )


@pytest.mark.parametrize("io", ["mmap", "pread"])
def test_a_file_that_changes_between_plan_and_work(
    tmp_path: Path, pair: tuple[Path, Path], io: str
) -> None:
    """The plan has the offsets of the file that was there."""
    plan = plan_extraction(*pair, ExtractOptions(parse_rank(2), Selection(), io=io))
    shard = sorted(pair[1].glob("*.safetensors"))[0]
    data = shard.read_bytes()
    shard.unlink()
    shard.write_bytes(data)
    checks.refused(
        FormatError,
        f"{shard.name}: changed while it was being read",
        lambda: run_plan(plan, tmp_path / "out"),
        tmp_path,
    )


def test_a_plan_writes_nothing(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    before = checks.contents(tmp_path)
    plan = plan_extraction(*pair, ExtractOptions(parse_rank(12), Selection()))
    assert checks.contents(tmp_path) == before
    assert len(plan.modules) == 6
    # Rank 12 of (24, 24), twice, and of (24, 56), twice; 8 of (8, 24), twice; two bytes each.
    assert plan.largest_result == 2 * (2 * 12 * 48 + 2 * 12 * 80 + 2 * 8 * 32)
    assert {module.linear.kind for module in plan.capped} == {"k_proj"}


def test_an_output_that_exists(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    out = tmp_path / "out"
    extract(*pair, out, rank=2)
    checks.refused(
        UsageError, "exists and is not empty.*--force", lambda: extract(*pair, out), tmp_path
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    extract(*pair, empty, rank=2)
    assert (empty / checks.CONFIG).exists()


def test_an_output_that_is_a_file(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    (tmp_path / "file").write_text("mine")
    for force in (False, True):
        checks.refused(
            UsageError,
            "file: exists and is no directory",
            lambda force=force: extract(*pair, tmp_path / "file", force=force),
            tmp_path,
        )
        checks.refused(
            FormatError,
            "file/out: cannot be made: Not a directory",
            lambda force=force: extract(*pair, tmp_path / "file" / "out", force=force),
            tmp_path,
        )


@pytest.mark.parametrize("number", [0, 1])
def test_an_output_that_is_an_input(tmp_path: Path, pair: tuple[Path, Path], number: int) -> None:
    link = tmp_path / "link"
    link.symlink_to(pair[number])
    for out in (pair[number], pair[number] / ".." / pair[number].name, link):
        checks.refused(
            UsageError,
            "is an input too",
            lambda out=out: extract(*pair, out, force=True),
            tmp_path,
        )


def test_an_output_beside_a_single_file(tmp_path: Path) -> None:
    """The directory of an input that is one file is not emptied of it."""
    base, _, _ = files.noisy_pair(tmp_path)["paths"]
    one = base / "model.safetensors"
    other = tmp_path / "other.safetensors"
    other.write_bytes(one.read_bytes())
    checks.refused(
        UsageError, "is an input too", lambda: extract(one, other, base, force=True), tmp_path
    )


@pytest.mark.parametrize("place", ["/proc/loragraft", "/proc/self/fdinfo/out", "/dev/null/out"])
def test_an_output_that_cannot_be_made(
    tmp_path: Path, pair: tuple[Path, Path], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Places where not even root may make a directory."""
    monkeypatch.setattr("shutil.disk_usage", lambda _: DiskUsage(2**40, 0, 2**40))
    checks.refused(FormatError, f"{place}: cannot be made", lambda: extract(*pair, place), tmp_path)
    assert not Path(place).exists()


def test_an_output_that_cannot_be_written(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    """A directory that exists, where not even root may make a file."""
    checks.refused(
        FormatError,
        "/proc/self/task: cannot be written|/proc/self/task: .*space",
        lambda: extract(*pair, "/proc/self/task", force=True),
        tmp_path,
    )


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_an_output_without_a_possible_name(
    tmp_path: Path, pair: tuple[Path, Path], name: str
) -> None:
    checks.refused(FormatError, "cannot be", lambda: extract(*pair, tmp_path / name), tmp_path)
    deep = tmp_path / "new" / name
    checks.refused(FormatError, "cannot be", lambda: extract(*pair, deep), tmp_path)


def test_not_enough_disk(
    tmp_path: Path, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def usage(path: Path) -> Any:
        asked.append(path)
        return DiskUsage(10_000, 0, 1000)

    monkeypatch.setattr("shutil.disk_usage", usage)
    called: list[Any] = []
    checks.refused(
        FormatError,
        "out: needs .* [kM]B, but .* are free; free some space",
        lambda: extract(*pair, tmp_path / "new" / "out", progress=lambda *a: called.append(a)),
        tmp_path,
    )
    assert asked == [tmp_path]
    assert called == []


@pytest.mark.parametrize("in_memory", [False, True])
def test_not_enough_memory(
    tmp_path: Path, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, in_memory: bool
) -> None:
    monkeypatch.setattr("loragraft.extraction.preflight.available_memory", lambda: 100_000_000)
    out = None if in_memory else tmp_path / "out"
    checks.refused(
        FormatError,
        r"not enough memory: about 1\d\d\.\d\d MB are needed and 100\.00 MB are free;"
        r" use fewer --threads",
        lambda: extract(*pair, out),
        tmp_path,
    )


def test_memory_that_the_system_does_not_tell(
    tmp_path: Path, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loragraft.extraction.preflight.available_memory", lambda: None)
    extract(*pair, tmp_path / "out", rank=2)


@pytest.mark.parametrize("fault", ["nan", "shape", "equal", "names"])
def test_odd_paths_stay_on_one_line(tmp_path: Path, fault: str) -> None:
    """Paths reach messages, which must not be torn nor colour the terminal."""
    place = tmp_path / "od\nd\x1b[31m"
    base = files.random_weights()
    tuned = dict(base)
    if fault == "nan":
        tuned["lm_head.weight"] = np.full_like(base["lm_head.weight"], np.nan)
    elif fault == "shape":
        tuned["model.norm.weight"] = np.ones(3, np.float32)
    elif fault == "names":
        tuned = {f"x.{name}": array for name, array in base.items()}
    sides = [
        files.write_checkpoint(place / "base", base),
        files.write_checkpoint(place / "tuned", tuned),
    ]
    with pytest.raises(LoragraftError) as caught:
        extract(*sides, place / "out", rank=2)
    assert str(caught.value).isprintable()

"""Several ranks from one factorisation, and rank rules on real files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

import extraction_checks as checks
import lora_files as files
from command_line import CommandLine, loragraft
from loragraft import extract
from loragraft.errors import MismatchError, NothingToAdaptError, StoppedError, UsageError
from loragraft.verification import verify

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["loragraft"]

RANKS = (2, 5, 9)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    case = checks.noise_pair(tmp_path_factory.mktemp("pair"), checks.SKETCHED)
    base, tuned = case["paths"]
    return base, tuned


def test_each_is_what_its_own_run_makes(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    out = tmp_path / "new" / "out"
    found = extract(*pair, out, rank="9,2,5", dtype="fp32")
    assert [one.output.name for one in (*found.smaller, found)] == [f"out-r{r}" for r in RANKS]
    assert sorted(path.name for path in out.parent.iterdir()) == [f"out-r{r}" for r in RANKS]
    for one, rank in zip((*found.smaller, found), RANKS, strict=True):
        assert {module.rank for module in one.report.modules} == {rank}
        config = json.loads((one.output / "adapter_config.json").read_text())
        assert (config["r"], config["lora_alpha"]) == (rank, rank)
        # The report's figures are those of the files.
        checked = verify(*pair, one.output)
        for ours, theirs in zip(one.report.modules, checked.modules, strict=True):
            assert ours.relative_error == pytest.approx(theirs.relative_error, rel=1e-5)
        alone = extract(*pair, rank=rank, dtype="fp32").report
        for ours, theirs in zip(one.report.modules, alone.modules, strict=True):
            assert ours.relative_error <= theirs.relative_error * 1.0005
            assert ours.optimal_error == pytest.approx(theirs.optimal_error, rel=1e-3)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_errors_after_the_cast(tmp_path: Path, pair: tuple[Path, Path], dtype: str) -> None:
    found = extract(*pair, tmp_path / "out", rank="2,5,9", dtype=dtype)
    for one in (*found.smaller, found):
        checked = verify(*pair, one.output)
        for ours, theirs in zip(one.report.modules, checked.modules, strict=True):
            assert ours.relative_error == pytest.approx(theirs.relative_error, rel=1e-5)


def test_in_memory(pair: tuple[Path, Path]) -> None:
    found = extract(*pair, rank="2,9", dtype="fp32")
    (small,) = found.smaller
    for name, factors in found.factors.items():
        cut = small.factors[name]
        np.testing.assert_array_equal(cut.lora_A, factors.lora_A[:2])
        np.testing.assert_array_equal(cut.lora_B, factors.lora_B[:, :2])


def test_none_is_written_where_one_cannot_be(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    (tmp_path / "out-r5").mkdir()
    (tmp_path / "out-r5" / "mine").write_text("precious")
    with pytest.raises(UsageError, match="out-r5: exists and is not empty"):
        extract(*pair, tmp_path / "out", rank="2,5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out-r5"]


def test_resumed(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    calls = 0

    def progress(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt

    extract(*pair, tmp_path / "whole", rank="2,9")
    with pytest.raises(StoppedError, match="--resume continues"):
        extract(*pair, tmp_path / "out", rank="2,9", threads=1, progress=progress)
    with pytest.raises(UsageError, match="other inputs, options"):
        extract(*pair, tmp_path / "out-r2", rank="9", resume=True)
    extract(*pair, tmp_path / "out", rank="2,9", resume=True)
    for rank in (2, 9):
        ours = (tmp_path / f"out-r{rank}" / checks.TENSORS).read_bytes()
        assert ours == (tmp_path / f"whole-r{rank}" / checks.TENSORS).read_bytes()


def test_on_the_command_line(
    tmp_path: Path, pair: tuple[Path, Path], loragraft: CommandLine
) -> None:
    answer = loragraft("extract", *pair, "-o", tmp_path / "out", "--rank", "2,9", "--json")
    assert answer.code == 0, answer.err
    assert answer.data["inputs"]["rank"] == 9
    assert [other["inputs"]["rank"] for other in answer.data["smaller"]] == [2]
    answer = loragraft("extract", *pair, "-o", tmp_path / "again", "--rank", "2,9")
    assert f"Adapter: {tmp_path / 'again-r2'}" in answer.out.replace("\n", "")
    assert f"Adapter: {tmp_path / 'again-r9'}" in answer.out.replace("\n", "")


@pytest.mark.parametrize("text", ["energy=0.4", "error=0.8"])
def test_shares_are_met_as_written(tmp_path: Path, pair: tuple[Path, Path], text: str) -> None:
    extract(*pair, tmp_path / "out", rank=text, max_rank=40)
    rule, _, number = text.partition("=")
    for module in verify(*pair, tmp_path / "out").modules:
        kept = module.energy if rule == "energy" else 1.0 - module.relative_error
        assert kept >= (float(number) if rule == "energy" else 1.0 - float(number)) - 1e-6


def test_a_budget_is_kept(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    found = extract(*pair, tmp_path / "out", rank="budget=30k", max_rank=40)
    written = sum(module.rank * sum(module.shape) for module in found.report.modules)
    assert 0.9 * 30_000 < written <= 30_000
    assert len({module.rank for module in found.report.modules}) > 1


def test_a_share_out_of_reach(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    checks.refused(
        MismatchError,
        r"energy=0\.999.*--max-rank",
        lambda: extract(*pair, tmp_path / "out", rank="energy=0.999", max_rank=3),
        tmp_path,
    )


def test_nothing_above_the_rounding(tmp_path: Path) -> None:
    """Weights that were rounded to bf16 and nothing else."""
    rng = np.random.default_rng(0)
    name = "model.layers.0.mlp.up_proj.weight"
    weight = (0.02 * rng.standard_normal((300, 200))).astype(np.float32)
    base = files.write_checkpoint(tmp_path / "base", {name: weight})
    rounded = weight.astype(files.NUMPY_DTYPES["BF16"])
    tuned = files.write_checkpoint(tmp_path / "tuned", {name: rounded})
    checks.refused(
        NothingToAdaptError,
        "--rank auto keeps nothing of any of the 1 layers.*give a rank such as 16",
        lambda: extract(base, tuned, tmp_path / "out", rank="auto"),
        tmp_path,
    )

"""What ``loragraft extract`` refuses: the exit code, one line, and nothing left behind."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from command_line import SMALL, CommandLine, loragraft, pair, spoil
from hostile_safetensors import MALFORMED, STRICTER
from lora_files import noisy_pair, random_weights, write_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["loragraft", "pair"]


def refused(loragraft: CommandLine, tmp_path: Path, code: int, *arguments: object) -> str:
    """Run an extraction that must fail cleanly; return what it says."""
    out = tmp_path / "made" / "out"
    answer = loragraft("extract", *arguments, "-o", out)
    assert (answer.code, answer.out) == (code, "")
    assert not out.parent.exists()
    return answer.error


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--rank", "0"], "--rank 0"),
        (["--rank", "-3"], "--rank -3"),
        (["--rank", "many"], "--rank many"),
        (["--rank", "auto", "--max-rank", "0"], "--max-rank 0"),
        (["--alpha", "0"], "--alpha"),
        (["--alpha", "nan"], "--alpha"),
        (["--threads", "0"], "threads 0"),
        (["--oversampling", "-1"], "--oversampling"),
        (["--power-iterations", "some"], "expected auto or"),
        (["--power-iterations", "-1"], "--power-iterations"),
        (["--seed", "-1"], "--seed"),
        (["--target-modules", "re:("], "no regular expression"),
        (["--target-modules", "nothing_proj"], "matches no module"),
        (["--target-modules", ""], "--target-modules"),
        (["--exclude", "nothing_proj"], "--exclude"),
        (["--layers", "0-"], "--layers"),
        (["--layers", "7"], "there is no layer 7"),
        (["--skip-3d", "perhaps"], "expected True or False"),
        (["--format", "onnx"], "'onnx' is not one of 'peft', 'gguf', 'both'"),
        (["--device", "tpu"], "--device"),
        (["--model-a", "x"], "BASE is given twice"),
        (["--model_b", "x"], "TUNED is given twice"),
    ],
)
def test_usage_is_2(
    loragraft: CommandLine,
    pair: tuple[Path, Path, Path],
    tmp_path: Path,
    options: list[str],
    said: str,
):
    assert said in refused(loragraft, tmp_path, 2, *pair[:2], *options)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", "out"], "BASE is missing"),
        (["a", "-o", "out"], "TUNED is missing"),
        (["a", "b"], "-o OUT is missing"),
        (["a", "b", "-o", ""], "-o OUT is missing"),
        (["", "b", "-o", "out"], "BASE is missing"),
    ],
)
def test_what_is_missing(loragraft: CommandLine, arguments: list[str], said: str):
    answer = loragraft("extract", *arguments)
    assert answer.code == 2
    assert said in answer.error


def test_an_input_is_no_output(loragraft: CommandLine, pair: tuple[Path, Path, Path]):
    before = sorted(pair[0].iterdir())
    answer = loragraft("extract", *pair[:2], "-o", pair[0], "--force")
    assert answer.code == 2
    assert "input" in answer.error
    assert sorted(pair[0].iterdir()) == before


def test_a_missing_file_is_3(loragraft: CommandLine, pair: tuple[Path, Path, Path], tmp_path: Path):
    missing = tmp_path / "nowhere" / "at" / "all"
    assert "no such file" in refused(loragraft, tmp_path, 3, pair[0], missing)
    shard = next(pair[1].glob("*-00002-*"))
    shard.unlink()
    assert shard.name in refused(loragraft, tmp_path, 3, *pair[:2])


@pytest.mark.parametrize("which", sorted(MALFORMED | STRICTER))
def test_a_malformed_file_is_3(
    loragraft: CommandLine, pair: tuple[Path, Path, Path], tmp_path: Path, which: str
):
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes((MALFORMED | STRICTER)[which])
    assert "bad.safetensors" in refused(loragraft, tmp_path, 3, pair[0], bad)


def test_pickled_weights_are_3(
    loragraft: CommandLine, pair: tuple[Path, Path, Path], tmp_path: Path
):
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"\x80\x04")
    assert "pickled" in refused(loragraft, tmp_path, 3, tmp_path / "pickled", pair[1])


def test_no_space_and_no_memory_are_3_before_the_work(
    loragraft: CommandLine,
    pair: tuple[Path, Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    with monkeypatch.context() as patch:
        patch.setattr("loragraft.extraction.preflight.available_memory", lambda: 1000)
        assert "not enough memory" in refused(loragraft, tmp_path, 3, *pair[:2])
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    assert "free some space" in refused(loragraft, tmp_path, 3, *pair[:2])


@contextmanager
def _as_nobody() -> Iterator[None]:
    """Let permissions count even where the tests run as root."""
    mine = os.geteuid()
    if mine == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(mine)


def test_no_permission_is_3(loragraft: CommandLine):
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        base, tuned, _ = noisy_pair(place)["paths"]
        (place / "closed").mkdir(mode=0o555)
        # Modules that are imported late must be there before the rights to read them are gone.
        assert loragraft("extract", base, tuned, "-o", place / "first", *SMALL).code == 0
        with _as_nobody():
            answer = loragraft("extract", base, tuned, "-o", place / "closed" / "out")
        assert answer.code == 3
        assert "Permission denied" in answer.error
        assert not (place / "closed" / "out").exists()
        (tuned / "model.safetensors.index.json").chmod(0)
        with _as_nobody():
            answer = loragraft("extract", base, tuned, "-o", place / "out")
        assert answer.code == 3
        assert "Permission denied" in answer.error


def test_other_shapes_are_4(loragraft: CommandLine, tmp_path: Path):
    weights = random_weights()
    base = write_checkpoint(tmp_path / "base", weights)
    weights["model.layers.1.mlp.down_proj.weight"] = weights["model.embed_tokens.weight"]
    tuned = write_checkpoint(tmp_path / "tuned", weights)
    said = refused(loragraft, tmp_path, 4, base, tuned)
    for text in ("model.layers.1.mlp.down_proj.weight", "24", "56", "40"):
        assert text in said


def test_other_models_are_4(loragraft: CommandLine, tmp_path: Path):
    weights = random_weights()
    base = write_checkpoint(tmp_path / "base", weights)
    renamed = {name.replace("layers", "h"): tensor for name, tensor in weights.items()}
    tuned = write_checkpoint(tmp_path / "tuned", renamed)
    said = refused(loragraft, tmp_path, 4, base, tuned)
    assert "lacks model.layers.0" in said
    assert "lacks model.h.0" in said


def test_equal_checkpoints_are_5(
    loragraft: CommandLine, pair: tuple[Path, Path, Path], tmp_path: Path
):
    copy = shutil.copytree(pair[0], tmp_path / "copy")
    assert "nothing to adapt" in refused(loragraft, tmp_path, 5, pair[0], copy)
    # The changed module is not among the chosen ones.
    assert "equal" in refused(
        loragraft, tmp_path, 5, *pair[:2], "--target-modules", "q_proj", "--layers", "1"
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_nan_and_inf_are_6(
    loragraft: CommandLine,
    pair: tuple[Path, Path, Path],
    tmp_path: Path,
    side: int,
    value: float,
):
    spoil(pair[side], value)
    said = refused(loragraft, tmp_path, 6, *pair[:2])
    assert "model.layers.0.mlp.down_proj" in said


def test_a_failure_keeps_the_adapter_that_was_there(
    loragraft: CommandLine, pair: tuple[Path, Path, Path], tmp_path: Path
):
    out = tmp_path / "out"
    assert loragraft("extract", *pair[:2], "-o", out, *SMALL).code == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    spoil(pair[1], np.nan)
    assert loragraft("extract", *pair[:2], "-o", out, "--force").code == 6
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize(
    "options",
    [
        ["--device", "cuda"],
        ["--device", "cuda:1"],
    ],
)
def test_what_is_not_there_yet_is_8(
    loragraft: CommandLine, pair: tuple[Path, Path, Path], tmp_path: Path, options: list[str]
):
    said = refused(loragraft, tmp_path, 8, *pair[:2], *options)
    assert options[1] in said
    assert "use --" in said

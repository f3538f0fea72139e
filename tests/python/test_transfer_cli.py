"""``loragraft transfer`` and ``compare`` as commands: output, exit codes, what is refused."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest

import lora_files as files
from command_line import CommandLine, loragraft, pair, spoil
from extraction_checks import contents

if TYPE_CHECKING:
    from pathlib import Path

    Sides = tuple[Path, Path, Path]

__all__ = ["loragraft", "pair"]

SMALL = ("--subspace-rank", "4")
SHAPE = files.SHAPES[f"{files.Q0}.weight"]


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LORAGRAFT_CACHE", str(tmp_path / ".cache"))


def arguments(sides: Sides, *more: object) -> tuple[object, ...]:
    base, tuned, adapter = sides
    return ("transfer", adapter, "--source", base, "--target", tuned, *SMALL, *more)


def test_a_transfer_tells_what_it_did(loragraft: CommandLine, pair: Sides, tmp_path: Path) -> None:
    answer = loragraft(*arguments(pair, "-o", tmp_path / "out"))
    assert answer.code == 0
    assert "3 modules copied" in answer.out
    assert "above chance" in answer.out
    assert f"Adapter: {tmp_path / 'out'}" in answer.out
    again = loragraft(*arguments(pair, "-o", tmp_path / "out", "--json", "--force"))
    assert again.data == json.loads((tmp_path / "out" / "report.json").read_text())
    assert again.data["summary"]["subspaces_computed"] == 0
    assert again.data["summary"]["subspaces_cached"] == 6
    assert loragraft("verify", pair[0], pair[1], tmp_path / "out").code == 0
    assert loragraft("inspect", tmp_path / "out").code == 0
    assert loragraft("merge", pair[1], tmp_path / "out", "-o", tmp_path / "merged").code == 0


def test_a_dry_run_writes_nothing(loragraft: CommandLine, pair: Sides, tmp_path: Path) -> None:
    answer = loragraft(*arguments(pair, "--dry-run", "--target-modules", "attention"))
    assert answer.code == 0
    assert "Nothing was written" in answer.out
    assert "--target-modules attention left out 1 module with" in answer.out
    data = loragraft(*arguments(pair, "--dry-run", "--json", "-o", tmp_path / "out")).data
    assert [row["name"] for row in data["modules"]] == [
        files.DOWN0,
        files.Q0,
        files.K1,
    ]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--method", "distill"), 2, "with --calibration FILE"),
        (("--method", "magic"), 2, "--method 'magic'"),
        (("--subspace-rank", "0"), 2, "--subspace-rank"),
        (("--scale", "nan"), 2, "--scale"),
        (("--power-iterations", "x"), 2, "--power-iterations"),
        (("--min-similarity", "2"), 2, "--min-similarity"),
        (("--layer-map", "none.json"), 2, "--layer-map"),
        (("--target-modules", "c_attn"), 2, "matches no module"),
        (("--threads", "0"), 2, "--threads"),
        (("--device", "cuda"), 8, "CPU"),
        (("--target-modules", "k_proj", "--layers", "0"), 5, "nothing is left to transfer"),
        (("--min-similarity", "1"), 5, "--min-similarity 1"),
    ],
)
def test_bad_options(
    loragraft: CommandLine,
    pair: Sides,
    tmp_path: Path,
    options: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    answer = loragraft(*arguments(pair, "-o", tmp_path / "out", *options))
    assert answer.code == code, answer.err
    assert words in answer.error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "lora_only"}, "bias is 'lora_only'"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
        ({"use_qalora": True}, "QALoRA"),
    ],
)
def test_more_than_plain_lora_is_refused_by_name(
    loragraft: CommandLine, pair: Sides, tmp_path: Path, config: dict[str, Any], words: str
) -> None:
    adapter = _edited(pair[2], tmp_path / "odd", config)
    answer = loragraft(*arguments((*pair[:2], adapter), "-o", tmp_path / "out"))
    assert answer.code == 4, answer.err
    assert words in answer.error
    assert not (tmp_path / "out").exists()


def test_other_tensors_and_embeddings_are_refused_by_name(
    loragraft: CommandLine, pair: Sides, tmp_path: Path
) -> None:
    factors = files.random_factors(files.ADAPTED, 3)
    bias = {f"base_model.model.{files.Q0}.bias": np.zeros(24, np.float32)}
    stray = files.write_adapter(tmp_path / "stray", factors, more=bias)
    answer = loragraft(*arguments((*pair[:2], stray), "-o", tmp_path / "out"))
    assert answer.code == 4
    assert "no LoRA factors" in answer.error
    embedding = {
        "base_model.model.model.embed_tokens.lora_embedding_A": np.zeros((3, 40), np.float32),
        "base_model.model.model.embed_tokens.lora_embedding_B": np.zeros((24, 3), np.float32),
    }
    rows = files.write_adapter(tmp_path / "rows", factors, more=embedding)
    answer = loragraft(*arguments((*pair[:2], rows), "-o", tmp_path / "out"))
    assert answer.code == 4
    assert "embedding" in answer.error


def test_an_adapter_of_another_model_is_refused(
    loragraft: CommandLine, pair: Sides, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    wide = {files.Q0: (rng.standard_normal((30, 3)), rng.standard_normal((3, 24)))}
    other = {f"{files.Q0}_x": (rng.standard_normal((24, 3)), rng.standard_normal((3, 24)))}
    for name, factors in (("wide", wide), ("other", other)):
        adapter = files.write_adapter(
            tmp_path / name,
            {key: (b.astype("f4"), a.astype("f4")) for key, (b, a) in factors.items()},
        )
        answer = loragraft(*arguments((*pair[:2], adapter), "-o", tmp_path / "out"))
        assert answer.code == 4
        assert "the model that the adapter was made for" in answer.error
    assert not (tmp_path / "out").exists()


def test_broken_inputs(loragraft: CommandLine, pair: Sides, tmp_path: Path) -> None:
    base, tuned, adapter = pair
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "pytorch_model.bin").write_bytes(b"x")
    assert loragraft(*arguments((base, empty, adapter), "-o", tmp_path / "out")).code == 3
    assert loragraft(*arguments((empty, tuned, adapter), "-o", tmp_path / "out")).code == 3
    assert loragraft(*arguments((base, tuned, empty), "-o", tmp_path / "out")).code == 3
    zero = {name: (0 * b, a) for name, (b, a) in files.random_factors(files.ADAPTED, 3).items()}
    nothing = files.write_adapter(tmp_path / "zero", zero)
    answer = loragraft(*arguments((base, tuned, nothing), "-o", tmp_path / "out"))
    assert answer.code == 5
    assert "zero" in answer.error
    spoil(tuned, np.nan)
    answer = loragraft(*arguments(pair, "-o", tmp_path / "out"))
    assert answer.code == 6
    assert "down_proj" in answer.error
    assert not (tmp_path / "out").exists()


def test_an_output_that_exists_stays(loragraft: CommandLine, pair: Sides, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    answer = loragraft(*arguments(pair, "-o", tmp_path / "out"))
    assert answer.code == 2
    assert "--force" in answer.error
    assert contents(tmp_path / "out") == {"mine.txt": b"mine"}
    for inside in pair:
        assert loragraft(*arguments(pair, "-o", inside, "--force")).code == 2


def test_copy_between_shapes_is_refused_by_module(
    loragraft: CommandLine, pair: Sides, tmp_path: Path
) -> None:
    base, _, adapter = pair
    weights = files.random_weights(seed=4)
    rng = np.random.default_rng(2)
    odd = f"{files.Q0}.weight"
    weights[odd] = rng.standard_normal((32, 24)).astype(ml_dtypes.bfloat16)
    target = files.write_checkpoint(tmp_path / "T", weights)
    options = ("--method", "copy", "-o", tmp_path / "out", "--json")
    answer = loragraft(*arguments((base, target, adapter), *options))
    assert answer.code == 0
    found = {row["name"]: row for row in answer.data["modules"]}
    assert found[files.Q0]["outcome"] == "left_out"
    assert f"copy needs equal shapes, got {SHAPE[0]} × {SHAPE[1]}" in found[files.Q0]["why"]
    assert found[files.K1]["outcome"] == "copied"
    assert [one["option"] for one in answer.data["filters"]] == ["--method copy"]


def test_comparison(loragraft: CommandLine, pair: Sides, tmp_path: Path) -> None:
    answer = loragraft("compare", *pair[:2], *SMALL, "-o", tmp_path / "out")
    assert answer.code == 0
    assert "excess" in answer.out
    data = json.loads((tmp_path / "out" / "report.json").read_text())
    assert data["command"] == "compare"
    assert loragraft("compare", *pair[:2], *SMALL, "-o", tmp_path / "out").code == 2
    again = loragraft("compare", *pair[:2], *SMALL, "--json").data
    assert again["modules"] == data["modules"]
    lines = loragraft("compare", *pair[:2], *SMALL, "--by-layer").out
    assert "0 q_proj" in lines
    (tmp_path / "gpt").mkdir()
    other = {"h.0.mlp.c_fc.weight": np.ones((24, 40), ml_dtypes.bfloat16)}
    config = {**files.CONFIG, "model_type": "gpt2"}
    gpt = files.write_checkpoint(tmp_path / "gpt" / "m", other, config=config)
    answer = loragraft("compare", pair[0], gpt)
    assert answer.code == 4
    assert "in common" in answer.error


def _edited(adapter: Path, out: Path, changes: dict[str, Any]) -> Path:
    shutil.copytree(adapter, out)
    path = out / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return out

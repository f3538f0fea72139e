"""``loragraft extract``: what it writes and what it says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import load_file

from command_line import LLAMA, MIXTRAL, SMALL, CommandLine, loragraft, pair, spoil, write_pair
from lora_files import CONFIG, random_weights, read_checkpoint, write_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["loragraft", "pair"]

FILES = {
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "report.html",
    "report.json",
}


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def settings(directory: Path) -> dict:
    return json.loads((directory / "adapter_config.json").read_text(encoding="utf-8"))


# What it does


def test_extract(loragraft: CommandLine, pair: tuple[Path, Path, Path], tmp_path: Path):
    out = tmp_path / "out"
    answer = loragraft("extract", *pair[:2], "-o", out, *SMALL)
    assert (answer.code, answer.err) == (0, "")
    assert names(out) == FILES
    assert "down_proj" in answer.out
    assert "keeps" in answer.out
    assert str(out) in answer.out.replace("\n", "")


def test_json_is_the_report_without_singular_values(
    loragraft: CommandLine, pair: tuple[Path, Path, Path], tmp_path: Path
):
    out = tmp_path / "out"
    answer = loragraft("extract", *pair[:2], "-o", out, "--rank", 16, "--json")
    assert answer.code == 0
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    for module in report["modules"]:
        del module["singular_values"]
    assert answer.data == report


def test_quiet_says_nothing_but_warnings(
    loragraft: CommandLine, pair: tuple[Path, Path, Path], tmp_path: Path
):
    answer = loragraft("extract", *pair[:2], "-o", tmp_path / "a", *SMALL, "-q")
    assert (answer.code, answer.out, answer.err) == (0, "", "")
    answer = loragraft("extract", *pair[:2], "-o", tmp_path / "b", "-q")
    assert (answer.code, answer.out) == (0, "")
    assert answer.err.startswith("loragraft: warning: rank 16 exceeds")


def test_verbose_tells_more_on_stderr(
    loragraft: CommandLine, pair: tuple[Path, Path, Path], tmp_path: Path
):
    answer = loragraft("extract", *pair[:2], "-o", tmp_path / "a", *SMALL, "-v", "--json")
    assert answer.data["command"] == "extract"
    assert "modules to factor" in answer.err


def test_a_rank_above_the_matrix_is_capped_and_told(
    loragraft: CommandLine, pair: tuple[Path, Path, Path], tmp_path: Path
):
    answer = loragraft("extract", *pair[:2], "-o", tmp_path / "out", "--rank", 10_000)
    assert answer.code == 0
    assert "rank 10000 exceeds" in answer.err
    assert "exceeds" not in answer.out, "warnings are for stderr"


def test_the_published_recipe_as_written(loragraft: CommandLine, tmp_path: Path):
    base, tuned = write_pair(tmp_path, LLAMA)
    out = tmp_path / "out"
    recipe = (
        f"extract --model_a {base} --model_b {tuned} --output {out} --rank 16"
        " --target_modules q_proj,k_proj,v_proj,o_proj --alpha 32 --skip_3d True"
        " --output_format peft"
    )
    answer = loragraft(*recipe.split())
    assert answer.code == 0, answer.err
    config = settings(out)
    assert (config["r"], config["lora_alpha"]) == (16, 32)
    assert set(config["target_modules"]) == {"q_proj", "k_proj", "v_proj", "o_proj"}
    tensors = load_file(out / "adapter_model.safetensors")
    assert not any("mlp" in name for name in tensors)
    # A is the base side: base + scaling·B·A comes closer to tuned than base is.
    name = "model.layers.0.self_attn.q_proj"
    a, b = (
        tensors[f"base_model.model.{name}.lora_{side}.weight"].astype(np.float32)
        for side in ("A", "B")
    )
    before, after = (
        read_checkpoint(side)[f"{name}.weight"].astype(np.float32) for side in (base, tuned)
    )
    assert np.linalg.norm(after - before - 2 * b @ a) < 0.6 * np.linalg.norm(after - before)


def test_dashes_and_underscores_mean_the_same(
    loragraft: CommandLine, pair: tuple[Path, Path, Path], tmp_path: Path
):
    options = {
        "--target-modules": "q_proj",
        "--power-iterations": "2",
        "--output-format": "peft",
        "--skip-3d": "true",
        "--model-b": pair[1],
    }
    written = []
    for style in (str, lambda option: "--" + option[2:].replace("-", "_")):
        out = tmp_path / f"out{len(written)}"
        pairs = [text for option, value in options.items() for text in (style(option), value)]
        answer = loragraft("extract", pair[0], "-o", out, *pairs, style("--no-report"), *SMALL)
        assert answer.code == 0, answer.err
        written.append((out / "adapter_model.safetensors").read_bytes())
        assert names(out) == FILES - {"report.html", "report.json"}
    assert written[0] == written[1]


def test_options_reach_the_library(
    loragraft: CommandLine, pair: tuple[Path, Path, Path], tmp_path: Path
):
    answer = loragraft(
        *("extract", *pair[:2], "-o", tmp_path / "out", "--json", "--rank", 2, "--alpha", 6),
        *("--target-modules", "mlp,q_proj", "--exclude", "down_proj", "--layers", "0"),
        *("--dtype", "fp32", "--oversampling", 5, "--power-iterations", 3, "--seed", 11),
        *("--threads", 1, "--io", "pread", "--skip-3d", "yes"),
    )
    assert answer.code == 0, answer.err
    expected = {
        "rank": 2,
        "alpha": 6.0,
        "dtype": "fp32",
        "target_modules": ["mlp", "q_proj"],
        "exclude": ["down_proj"],
        "layers": [0],
        "experts": False,
        "oversampling": 5,
        "power_iterations": 3,
        "seed": 11,
    }
    inputs = answer.data["inputs"]
    assert {key: inputs[key] for key in expected} == expected
    assert [module["name"] for module in answer.data["modules"]] == [
        "model.layers.0.self_attn.q_proj"
    ]
    assert answer.data["modules"][0]["dtype"] == "F32"


@pytest.mark.parametrize(("value", "adapted"), [("True", False), ("no", True)])
def test_skip_3d_leaves_experts_out(
    loragraft: CommandLine, tmp_path: Path, value: str, adapted: bool
):
    base, tuned = write_pair(tmp_path, MIXTRAL, model_type="mixtral")
    answer = loragraft(
        *("extract", base, tuned, "-o", tmp_path / "out", *SMALL, "--skip_3d", value, "--json")
    )
    assert answer.code == 0, answer.err
    experts = [module for module in answer.data["modules"] if ".experts." in module["name"]]
    assert bool(experts) is adapted


def test_force_replaces_an_adapter(
    loragraft: CommandLine, pair: tuple[Path, Path, Path], tmp_path: Path
):
    out = tmp_path / "out"
    assert loragraft("extract", *pair[:2], "-o", out, *SMALL).code == 0
    first = (out / "adapter_config.json").read_text(encoding="utf-8")
    answer = loragraft("extract", *pair[:2], "-o", out, "--rank", 1)
    assert answer.code == 2
    assert "--force" in answer.error
    assert (out / "adapter_config.json").read_text(encoding="utf-8") == first
    assert loragraft("extract", *pair[:2], "-o", out, "--rank", 1, "--force").code == 0
    assert settings(out)["r"] == 1


def test_other_configuration_and_tokenizer_are_told(
    loragraft: CommandLine, pair: tuple[Path, Path, Path], tmp_path: Path
):
    config = {**CONFIG, "rope_theta": 7}
    (pair[1] / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for side, text in zip(pair[:2], ("{}", "[]"), strict=True):
        (side / "tokenizer.json").write_text(text, encoding="utf-8")
    answer = loragraft("extract", *pair[:2], "-o", tmp_path / "out", *SMALL)
    assert answer.code == 0
    assert "rope_theta" in answer.err
    assert "tokenizer" in answer.err


def test_a_base_that_is_not_the_same_is_told(loragraft: CommandLine, tmp_path: Path):
    base = write_checkpoint(tmp_path / "base", random_weights(0))
    tuned = write_checkpoint(tmp_path / "tuned", random_weights(1))
    answer = loragraft("extract", base, tuned, "-o", tmp_path / "out", *SMALL)
    assert answer.code == 0
    assert "BASE is probably not what TUNED was trained from" in answer.err


# The plan


def test_dry_run(loragraft: CommandLine, pair: tuple[Path, Path, Path], tmp_path: Path):
    out = tmp_path / "out"
    answer = loragraft("extract", *pair[:2], "-o", out, "--dry-run")
    assert answer.code == 0
    assert not out.exists()
    for text in ("q_proj", "24 × 56", "to read", "Adapter:", "Memory:", "embedding", "dry run"):
        assert text in answer.out
    assert "rank 16 exceeds 2 modules" in answer.err


def test_the_plan_says_what_then_happens(loragraft: CommandLine, tmp_path: Path):
    base, tuned = write_pair(tmp_path, LLAMA)
    plan = loragraft("extract", base, tuned, *SMALL, "--dry-run", "--json").data
    done = loragraft("extract", base, tuned, *SMALL, "-o", tmp_path / "out", "--json").data
    assert plan["schema"] == "loragraft.plan/1"
    assert sum(kind["modules"] for kind in plan["kinds"]) == len(done["modules"])
    assert plan["bytes_to_read"] == done["summary"]["bytes_read"]
    header = 8 + int.from_bytes(
        (tmp_path / "out" / "adapter_model.safetensors").read_bytes()[:8], "little"
    )
    assert plan["bytes_to_write"] == done["summary"]["bytes_written"] - header


def test_dry_run_counts_what_is_left_out(loragraft: CommandLine, pair: tuple[Path, Path, Path]):
    plan = loragraft("extract", *pair[:2], "--dry-run", "--json", "--target-modules", "mlp").data
    assert plan["left_out"]["not among the target modules"] == 5
    assert sum(plan["left_out"].values()) + 2 == len(random_weights())


def test_dry_run_reads_no_weights_and_checks_the_destination(
    loragraft: CommandLine, pair: tuple[Path, Path, Path], tmp_path: Path
):
    spoil(pair[1], np.nan)
    assert loragraft("extract", *pair[:2], "--dry-run").code == 0
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").touch()
    assert loragraft("extract", *pair[:2], "--dry-run", "-o", tmp_path / "out").code == 2

"""The demonstration, whole, as a user sees it."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from loragraft.cli.application import app
from loragraft.demo.story import RANK, run_demo
from loragraft.errors import UsageError
from loragraft.report.model import Outcome

if TYPE_CHECKING:
    from pathlib import Path


def test_demo_merges_extracts_and_proves(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["demo", "-o", str(tmp_path / "demo"), "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    extraction, verification = told["extraction"], told["verification"]
    assert len(verification["modules"]) == 210
    for claimed, measured in zip(extraction["modules"], verification["modules"], strict=True):
        assert claimed["name"] == measured["name"]
        assert claimed["rank"] == RANK
        # Kernel and verification agree: both sums are in double precision, the products in single.
        assert claimed["relative_error"] == pytest.approx(measured["relative_error"], rel=1e-6)
        # 1.001 times the optimum, and the cast to fp16: 2^-11 of either factor.
        limit = 1.001 * measured["optimal_error"] + 2 * 2.0**-11
        assert measured["relative_error"] <= limit
        assert claimed["dtype"] == "F16"
    outcomes = {tensor["name"]: tensor["outcome"] for tensor in extraction["tensors"]}
    assert len(outcomes) == 272
    assert sum(outcome == Outcome.ADAPTED for outcome in outcomes.values()) == 210
    assert outcomes["model.embed_tokens.weight"] == Outcome.UNCHANGED
    # What a rank-8 adapter was merged into keeps most of the change at rank 8, rounding aside.
    assert verification["summary"]["energy"] > 0.8
    assert (tmp_path / "demo" / "adapter" / "report.json").exists()


def test_demo_leaves_other_files_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match=r"holds thesis\.tex"):
        run_demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_packaged_adapter_is_small_and_tells_where_it_comes_from() -> None:
    adapter = files("loragraft.demo") / "adapter"
    names = ("adapter_model.safetensors", "adapter_config.json", "README.md")
    sizes = [len((adapter / name).read_bytes()) for name in names]
    assert sum(sizes) <= 6_000_000
    assert "CC BY-SA 4.0" in (adapter / "README.md").read_text(encoding="utf-8")
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    assert (config["r"], config["base_model_name_or_path"]) == (
        RANK,
        "HuggingFaceTB/SmolLM2-135M-Instruct",
    )

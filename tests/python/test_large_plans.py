"""What would be done with the largest models, from their headers alone."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import large_models
from command_line import CommandLine, loragraft
from loragraft.architecture.selection import parse_selection
from loragraft.extraction import ExtractOptions, parse_rank, plan_extraction

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["loragraft"]


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("qwen")
    tensors, config = large_models.qwen35_moe()
    base, tuned = (large_models.write_sparse(root / side, tensors, config) for side in "bt")
    return base, tuned


@pytest.fixture(scope="module")
def deepseek(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("deepseek")
    tensors, config = large_models.deepseek_v3()
    base, tuned = (large_models.write_sparse(root / side, tensors, config) for side in "bt")
    return base, tuned


def test_a_model_of_35_billion(loragraft: CommandLine, qwen: tuple[Path, Path]) -> None:
    answer = loragraft("extract", *qwen, "--dry-run", "--json", "--threads", "2")
    assert answer.code == 0, answer.err
    plan = answer.data
    kinds = {kind["kind"]: kind for kind in plan["kinds"]}
    assert kinds["experts.gate_up_proj"]["modules"] == 40
    assert kinds["experts.gate_up_proj"]["experts"] == 256
    assert kinds["experts.gate_up_proj"]["shapes"] == [[1024, 2048]]
    assert kinds["experts.down_proj"]["shapes"] == [[2048, 512]]
    assert kinds["q_proj"]["modules"] == 10
    assert kinds["in_proj_qkv"]["modules"] == kinds["out_proj"]["modules"] == 30
    per_rank = 40 * 256 * (1024 + 2048 + 2048 + 512)
    per_rank += 40 * 3 * (2048 + 512) + 10 * (10240 + 2 * 2560 + 6144)
    per_rank += 30 * (10240 + 6144 + 2 * 2080 + 6144)
    assert plan["bytes_to_write"] == 2 * 16 * per_rank
    assert plan["bytes_to_read"] == pytest.approx(2 * 2 * 34.66e9, rel=0.02)
    assert plan["memory"] < 600e6
    assert {"convolution", "norm", "embedding"} <= set(plan["left_out"])


def test_a_model_of_671_billion(loragraft: CommandLine, deepseek: tuple[Path, Path]) -> None:
    answer = loragraft("extract", *deepseek, "--dry-run", "--json", "--threads", "2")
    assert answer.code == 0, answer.err
    plan = answer.data
    kinds = {kind["kind"]: kind for kind in plan["kinds"]}
    assert kinds["experts.gate_up_proj"]["modules"] == 58
    assert kinds["experts.gate_up_proj"]["shapes"] == [[4096, 7168]]
    assert kinds["gate_proj"]["modules"] == 61
    assert plan["bytes_to_read"] == pytest.approx(2 * 671e9, rel=0.02)
    assert plan["memory"] < 2e9


def test_every_tensor_is_accounted_for(deepseek: tuple[Path, Path]) -> None:
    options = ExtractOptions(
        rank=parse_rank(16), selection=parse_selection("all-linear", None, None), threads=2
    )
    plan = plan_extraction(*deepseek, options)
    tensors, _ = large_models.deepseek_v3()
    named = {entry.name for unit in plan.units for entry in unit.entries}
    named |= {pair.name for pair, _ in plan.untouched}
    assert named == set(tensors)
    weights = sum(unit.parameters for unit in plan.units)
    assert weights == pytest.approx(
        sum(math.prod(shape) for name, (_, shape) in tensors.items() if "scale" not in name)
    )


def test_a_plan_takes_little_memory(deepseek: tuple[Path, Path]) -> None:
    """Of its own process, interpreter and libraries included."""
    code = (
        "import sys; from loragraft.cli.application import run; run(sys.argv[1:]);"
        "print(open('/proc/self/status').read())"
    )
    command = [sys.executable, "-c", code, "extract", *map(str, deepseek), "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak = int(done.stdout.split("VmHWM:")[1].split()[0]) * 1024
    assert peak < 600e6

"""The command line run in this process, and what every answer of it has in common."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lora_files import CONFIG, noisy_pair, write_checkpoint
from loragraft.cli.application import run

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: Options for `pair`, whose smallest matrix has 8 rows and whose adapter's rank is 3.
SMALL = ("--rank", "2")
#: Two blocks of a Llama, as small as the names allow.
LLAMA = {
    f"model.layers.{layer}.{name}.weight": shape
    for layer in range(2)
    for name, shape in {
        "self_attn.q_proj": (32, 24),
        "self_attn.k_proj": (8, 24),
        "self_attn.v_proj": (8, 24),
        "self_attn.o_proj": (24, 32),
        "mlp.down_proj": (24, 56),
    }.items()
}
MIXTRAL = LLAMA | {
    f"model.layers.{layer}.block_sparse_moe.experts.{expert}.{name}.weight": shape
    for layer in range(2)
    for expert in range(2)
    for name, shape in {"w1": (40, 24), "w2": (24, 40), "w3": (40, 24)}.items()
}


@dataclass(frozen=True, slots=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """stdout as JSON: there must be nothing else."""
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line that a failed command says, checked for what all of them promise."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("loragraft: error: ")
        assert lines[0].isprintable()
        assert "Traceback" not in self.err
        return lines[0].removeprefix("loragraft: error: ")


class CommandLine:
    """Calls `run` and collects what it prints."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    def __call__(self, *arguments: object) -> Answer:
        self._capture.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = self._capture.readouterr()
        return Answer(code, captured.out, captured.err)


@pytest.fixture
def loragraft(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    return CommandLine(capfd)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path, Path]:
    """BASE, TUNED and an adapter for them; three modules differ."""
    base, tuned, adapter = noisy_pair(tmp_path)["paths"]
    return base, tuned, adapter


def write_pair(
    directory: Path,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    model_type: str = "llama",
    change: float = 0.05,
) -> tuple[Path, Path]:
    """BASE and TUNED, every tensor of which differs."""
    rng = np.random.default_rng(3)
    base = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    tuned = {name: w + change * rng.standard_normal(w.shape) for name, w in base.items()}
    config = {**CONFIG, "model_type": model_type}
    before, after = (
        write_checkpoint(
            directory / side,
            {name: w.astype(ml_dtypes.bfloat16) for name, w in tensors.items()},
            config=config,
        )
        for side, tensors in (("base", base), ("tuned", tuned))
    )
    return before, after


def spoil(directory: Path, value: float, tensor: str = "model.layers.0.mlp.down_proj") -> None:
    """Put a value into one weight."""
    for path in directory.glob("*.safetensors"):
        tensors = load_file(path)
        if f"{tensor}.weight" in tensors:
            tensors[f"{tensor}.weight"][3, 5] = value
            save_file(tensors, path)

"""Adapters in several versions of the real PEFT: each loads what docs/formats.md says it loads.

Slow: every version is installed into a directory of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import llama_models
import loragraft
from compatibility import record
from expert_adapters import write_adapter
from loragraft.architecture.modules import take_inventory
from loragraft.checkpoint import open_checkpoint

if TYPE_CHECKING:
    Array = np.ndarray[Any, Any]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
VERSIONS: Final = ("0.17.1", "0.18.1", "0.19.1", "0.20.0", "0.21.2")
_TOKENS: Final = np.random.default_rng(5).integers(3, llama_models.VOCABULARY, 16).tolist()
_HERE: Final = Path(__file__).parent
#: Sums of a few hundred products in float32, through two layers.
_FLOAT: Final = 3e-5
#: Layout -> the versions that must load it, with the transformers at hand: 0.17 cannot be imported
#: beside it, and 0.19.1 fails in the class that converts experts.
_LOADS: Final = {
    "llama, peft": VERSIONS[1:],
    "qwen3_moe, peft": ("0.20.0", "0.21.2"),
    "qwen3_moe, peft-legacy": ("0.18.1",),
    "qwen3_moe, per-expert": ("0.21.2",),
}


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path, Array]]:
    """Base, adapter and the logits of both merged, by layout."""
    found = {}
    for case in _LOADS:
        family, layout = case.split(", ")
        work = tmp_path_factory.mktemp(f"{family}-{layout}")
        base = llama_models.build(family, work / "base")
        linears = take_inventory(open_checkpoint(base), layout).linears
        write_adapter(work / "adapter", base, linears, scaling=0.5, layout=layout)
        loragraft.merge(base, work / "adapter", work / "merged")
        model = AutoModelForCausalLM.from_pretrained(
            work / "merged", dtype=torch.float32, attn_implementation="eager"
        ).eval()
        with torch.no_grad():
            logits = model(torch.tensor([_TOKENS])).logits[0].numpy()
        found[case] = (base, work / "adapter", logits)
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_a_version_loads_what_is_said(
    version: str, adapters: dict[str, tuple[Path, Path, Array]], tmp_path: Path
) -> None:
    installed = tmp_path / "peft"
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target"]
    subprocess.run([*command, str(installed), f"peft=={version}"], check=True)
    for case, (base, adapter, expected) in adapters.items():
        job = {"base": str(base), "adapter": str(adapter), "tokens": _TOKENS}
        job["out"] = str(tmp_path / "logits.npy")
        Path(job["out"]).unlink(missing_ok=True)
        (tmp_path / "job.json").write_text(json.dumps(job), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, str(_HERE / "peft_worker.py"), str(tmp_path / "job.json")],
            env={**os.environ, "PYTHONPATH": str(installed)},
            capture_output=True,
            text=True,
            check=True,
        )
        told = json.loads(done.stdout.splitlines()[-1])
        assert told.get("version", version) == version
        error = None
        if "error" not in told:
            error = float(np.abs(np.load(job["out"]) - expected).max())
        right = error is not None and error < _FLOAT
        said = told.get("error") or told.get("warning") or ""
        record("PEFT", version, case, error=error, right=right, said=said)
        assert right or version not in _LOADS[case], (case, told, error)

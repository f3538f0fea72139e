"""Embeddings as factors: extracted, loaded by real PEFT, verified and merged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

import extraction_checks as checks
import tiny_models
from loragraft import extract
from loragraft.errors import UsageError
from loragraft.merging import merge
from loragraft.verification import verify

if TYPE_CHECKING:
    from pathlib import Path

EMBEDDING = "model.embed_tokens.weight"


def _load(base: Path, adapter: Path) -> PeftModel:
    """Load an adapter in real PEFT; a missing key is a warning, hence an error here."""
    return PeftModel.from_pretrained(checks.load_base(base, torch.float64), adapter)


def _pair(tmp_path: Path, name: str) -> tuple[Path, Path]:
    """A pair whose embedding changes by rank 2 too."""
    base = tiny_models.build(name, tmp_path / "base", seed=1, dtype="fp32")
    tuned = tiny_models.perturb(base, tmp_path / "tuned", rank=2, seed=2, scale=0.1)
    tensors = load_file(tuned / "model.safetensors")
    rows, columns = tensors[EMBEDDING].shape
    generator = torch.Generator().manual_seed(3)
    left = torch.randn(rows, 2, generator=generator)
    tensors[EMBEDDING] += 0.01 * left @ torch.randn(2, columns, generator=generator)
    save_file(tensors, tuned / "model.safetensors", metadata={"format": "pt"})
    return base, tuned


def test_an_embedding_comes_back(tmp_path: Path) -> None:
    base, tuned = _pair(tmp_path, "llama")
    out = tmp_path / "out"
    report = extract(
        base, tuned, out, rank=2, dtype="fp32", target_modules="all-linear,embed_tokens"
    ).report
    row = next(row for row in report.modules if row.name == "model.embed_tokens")
    tensors = tiny_models.read_tensors(tuned)
    assert row.shape == (tensors[EMBEDDING].shape[1], tensors[EMBEDDING].shape[0])
    assert row.relative_error < 1e-5
    assert checks.tensor(report, EMBEDDING).outcome == "adapted"
    written = load_file(out / "adapter_model.safetensors")
    assert written["base_model.model.model.embed_tokens.lora_embedding_A"].shape == (2, 128)
    merged = _load(base, out).merge_and_unload().state_dict()
    for name, value in tensors.items():
        np.testing.assert_allclose(merged[name], value, atol=1e-6)
    checked = verify(base, tuned, out)
    assert checked.summary.counts == report.summary.counts
    assert checked.summary.error < 1e-5
    merge(base, out, tmp_path / "merged")
    ours = tiny_models.read_tensors(tmp_path / "merged")
    np.testing.assert_allclose(ours[EMBEDDING], tensors[EMBEDDING], atol=1e-6)


def test_without_a_word_an_embedding_is_left_out(tmp_path: Path) -> None:
    base, tuned = _pair(tmp_path, "llama")
    report = extract(base, tuned, tmp_path / "out", rank=2).report
    row = checks.tensor(report, EMBEDDING)
    assert (row.outcome, row.why) == ("left_out", "embedding")


def test_a_tied_embedding_is_refused(tmp_path: Path) -> None:
    base, tuned = _pair(tmp_path, "qwen2")
    checks.refused(
        UsageError,
        "model.embed_tokens shares its weight with .*: save it whole instead",
        lambda: extract(base, tuned, tmp_path / "out", target_modules="embed_tokens"),
        tmp_path,
    )


def test_an_embedding_alone(tmp_path: Path) -> None:
    base, tuned = _pair(tmp_path, "llama")
    report = extract(base, tuned, tmp_path / "out", rank=2, target_modules="embed_tokens").report
    assert [row.name for row in report.modules] == ["model.embed_tokens"]
    assert _load(base, tmp_path / "out").peft_config["default"].target_modules == {"embed_tokens"}


@pytest.mark.parametrize("excluded", ["embed_tokens", "model.embed_tokens"])
def test_an_excluded_embedding(tmp_path: Path, excluded: str) -> None:
    base, tuned = _pair(tmp_path, "llama")
    report = extract(
        base,
        tuned,
        tmp_path / "out",
        rank=2,
        target_modules="q_proj,embed_tokens",
        exclude=excluded,
    ).report
    assert {row.kind for row in report.modules} == {"q_proj"}

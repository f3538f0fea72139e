"""Transferred adapters in real PEFT: no missing and no unexpected key, and the stated change."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

import tiny_models
import transfer_files as made
from extraction_checks import distance, factors, load_base, load_peft, logits, scalings
from lora_files import write_adapter
from loragraft import transfer

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAGRAFT_CACHE", "off")


@pytest.mark.parametrize("tails", [made.ATTENTION, made.MLP, made.ATTENTION + made.MLP])
def test_an_adapter_loads_on_a_deeper_and_wider_model(
    tmp_path: Path, tails: tuple[str, ...]
) -> None:
    source = made.llama(tmp_path / "S", seed=1)
    target = made.wider(tmp_path / "T", seed=2)
    adapter = made.adapter(tmp_path / "A", source, tails=tails, size=0.5)
    result = transfer(
        adapter, source, target, tmp_path / "out", subspace_rank=32, scale="match-norm",
        controls=True,
    )  # fmt: skip
    config = json.loads((result.output / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(target)
    before = logits(load_base(target))
    for path in (result.output, *result.controls.values()):
        model = load_peft(target, path)
        assert set(scalings(model).values()) == {1.0}
        assert distance(logits(model), before) > 0.01 * float(before.norm())


def test_peft_computes_what_the_report_says(tmp_path: Path) -> None:
    source = made.llama(tmp_path / "S", seed=1)
    target = made.llama(tmp_path / "T", seed=2)
    adapter = made.adapter(
        tmp_path / "A", source, alpha=6.0, use_rslora=True, alpha_pattern={"k_proj": 9}
    )
    result = transfer(adapter, source, target, tmp_path / "out", subspace_rank=24)
    merged = load_peft(target, result.output).merge_and_unload().state_dict()
    for name, weight in made.matrices(target).items():
        delta = merged[f"{name}.weight"].double().numpy() - weight
        # Weights are float32 values in float64; the difference of two costs its rounding.
        expected = made.rows(result)[name].delta_norm
        assert np.linalg.norm(delta) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("family", ["qwen2", "gemma3_text", "phi3", "gpt2", "gpt_neox"])
def test_other_families_copy_onto_their_own_kind(tmp_path: Path, family: str) -> None:
    source = tiny_models.build(family, tmp_path / "S", seed=1, dtype="fp32")
    target = made.moved(source, tmp_path / "T", change=0.01)
    rng = np.random.default_rng(0)
    linears = {
        name.removesuffix(".weight"): tuple(values.shape)
        for name, values in tiny_models.read_tensors(source).items()
        if values.dim() == 2 and (".h." in name or "layers." in name or name.startswith("h."))
    }
    prefix = "transformer." if family == "gpt2" else ""
    pairs = {}
    for name, shape in linears.items():
        out, into = shape[::-1] if family == "gpt2" else shape
        full = name if name.startswith(prefix) else prefix + name
        b, a = 0.05 * rng.standard_normal((out, 2)), rng.standard_normal((2, into))
        pairs[full] = (b.astype(np.float32), a.astype(np.float32))
    more = {"fan_in_fan_out": True} if family == "gpt2" else {}
    adapter = write_adapter(tmp_path / "A", pairs, **more)
    for method in ("auto", "prolora"):
        result = transfer(
            adapter, source, target, tmp_path / method, method=method, subspace_rank=8
        )
        assert len(result.report.modules) == len(pairs)
        model = load_peft(target, result.output)
        assert factors(result.output).keys() == pairs.keys()
        assert distance(logits(model), logits(load_base(target))) > 0
        if method == "auto":
            assert {row.method for row in result.report.modules} == {"copy"}
            own = logits(load_peft(target, adapter))
            assert torch.equal(logits(model), own)


def test_between_families_everything_that_fits_is_transferred(tmp_path: Path) -> None:
    source = tiny_models.build("llama", tmp_path / "S", seed=1, dtype="fp32")
    target = tiny_models.build("phi3", tmp_path / "T", seed=2, dtype="fp32")
    adapter = made.adapter(tmp_path / "A", source)
    result = transfer(adapter, source, target, tmp_path / "out", subspace_rank=8, method="lora-x")
    load_peft(target, result.output)
    kinds = {row.kind for row in result.report.modules}
    assert kinds == {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}
    assert not result.report.filters
    assert result.report.summary.norm_share == pytest.approx(1.0)


def test_between_families_what_has_no_counterpart_is_told(tmp_path: Path) -> None:
    source = tiny_models.build("llama", tmp_path / "S", seed=1, dtype="fp32")
    target = tiny_models.build("gpt_neox", tmp_path / "T", seed=2, dtype="fp32")
    adapter = made.adapter(tmp_path / "A", source)
    result = transfer(adapter, source, target, tmp_path / "out", subspace_rank=8, method="lora-x")
    load_peft(target, result.output)
    assert {row.kind for row in result.report.modules} == {"query_key_value"}
    (lost,) = result.report.filters
    assert lost.option == "no counterpart"
    assert lost.modules == 12
    assert "self_attn." in lost.why or "mlp." in lost.why
    assert lost.share + result.report.summary.norm_share == pytest.approx(1.0)

"""Exact recovery of merges that real PEFT made, and real PEFT merging what was recovered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

import tiny_models as tiny
from loragraft import extract

if TYPE_CHECKING:
    from pathlib import Path

RANK = 4


@pytest.fixture
def base(tmp_path: Path) -> Path:
    config = LlamaConfig(
        vocab_size=64, hidden_size=96, intermediate_size=160, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def merged(base: Path, out: Path, *, scale: float, autocast: bool) -> Path:
    """What PEFT merges; its factors are float32 with `autocast`, else bf16 as the base."""
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear")
    lora: Any = get_peft_model(model, config, autocast_adapter_dtype=autocast)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in lora.named_parameters():
        if "lora_" in name:
            values = scale * torch.randn(parameter.shape, generator=generator)
            parameter.data = values.to(parameter.dtype)
            assert parameter.dtype is (torch.float32 if autocast else torch.bfloat16)
    lora.merge_and_unload().save_pretrained(out)
    return out


def test_what_peft_merged_comes_back_and_peft_merges_it_again(tmp_path: Path, base: Path) -> None:
    tuned = merged(base, tmp_path / "tuned", scale=0.006, autocast=True)
    report = extract(base, tuned, tmp_path / "out", rank=RANK, exact=True).report
    assert report.extra["exact"]["modules"] == {"exact": 14, "near": 0, "plain": 0}
    assert report.extra["exact"]["slack"] == 0.0
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    again = PeftModel.from_pretrained(model, str(tmp_path / "out")).merge_and_unload()
    wanted = tiny.read_tensors(tuned)
    found = {name: tensor for name, tensor in again.state_dict().items() if name in wanted}
    different = sum(int((found[name] != wanted[name]).sum()) for name in found)
    assert len(found) == len(wanted)
    # A few sums at the ends of their cells fall to the other side.
    assert different <= 5e-4 * sum(tensor.numel() for tensor in wanted.values())


def test_a_bf16_adapter_is_recognised(tmp_path: Path, base: Path) -> None:
    tuned = merged(base, tmp_path / "tuned", scale=0.5, autocast=False)
    report = extract(base, tuned, tmp_path / "out", rank=RANK, exact=True).report
    assert report.extra["exact"]["slack"] == 2.0**-8
    assert report.extra["exact"]["modules"]["exact"] == 14

"""Adapters on families with experts, as real PEFT saves and loads them."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from torch import nn

import moe_models
from loragraft.architecture import family_of
from loragraft.architecture.expert_modules import expert_modules
from loragraft.architecture.experts import find_experts
from loragraft.architecture.naming import name_modules
from loragraft.architecture.unloaded import why_unloaded
from loragraft.checkpoint import open_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from transformers import PreTrainedModel

    from loragraft.architecture.linear_module import LinearModule
    from loragraft.checkpoint import Checkpoint

RANK = 2
#: Families whose adapters load, but change one of two modules that share their weights, or leave a
#: model that does not run.
LOADED_IN_VAIN = {"diffusion_gemma", "dbrx"}


def experts_of(checkpoint: Checkpoint, layout: str = "peft") -> list[LinearModule]:
    family = family_of(checkpoint.config)
    groups = find_experts(checkpoint.tensors, family, checkpoint.config)
    return [module for group in groups for module in expert_modules(group, layout)]


def linears_of(checkpoint: Checkpoint) -> list[str]:
    """Return the names in memory of the layers that an adapter may be put on, experts aside."""
    family = family_of(checkpoint.config)
    claimed = {name for module in experts_of(checkpoint) for name in module.tensors}
    paths = [
        name.removesuffix(".weight")
        for name, entry in checkpoint.tensors.items()
        if len(entry.shape) == 2
        and name.endswith(".weight")
        and name not in claimed
        and why_unloaded(name, family, checkpoint.config) is None
    ]
    names = name_modules(paths, family, checkpoint.config)
    return [
        names[path]
        for path in paths
        if not family.is_embedding(path)
        and family.why_refused(path) is None
        and not re.search(r"(lm_head|unembed)|^(head|output)$", path)
    ]


def wrapped(model: PreTrainedModel, modules: Iterable[str], parameters: Iterable[str]) -> PeftModel:
    config = LoraConfig(
        r=RANK,
        lora_alpha=RANK,
        target_modules=list(modules),
        target_parameters=list(parameters),
        lora_dropout=0.0,
    )
    return get_peft_model(model, config)


def factors(model: PeftModel) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.state_dict().items() if ".lora_" in name}


@pytest.mark.parametrize("model_type", moe_models.FAMILIES)
def test_peft_loads_what_the_data_calls_loadable(model_type: str, tmp_path: Path) -> None:
    model = moe_models.make(model_type)
    checkpoint = open_checkpoint(moe_models.save(model, tmp_path / "model"))
    family = family_of(checkpoint.config)
    experts = experts_of(checkpoint)
    reachable = not any(layout.unreachable for layout in family.experts)
    names = linears_of(checkpoint)
    for name in names:
        module = model.get_submodule(name)
        assert isinstance(module, nn.Linear) or family.is_parameter(name), name
        assert module.get_parameter("weight").dim() == 2
    modules = [name for name in names if not family.is_parameter(name)]
    parameters = [f"{name}.weight" for name in names if family.is_parameter(name)]
    parameters += [module.name for module in experts]
    adapted = wrapped(model, modules, parameters)
    with torch.no_grad():
        for value in factors(adapted).values():
            value.copy_(torch.randn_like(value))
    check_factors(adapted, experts)
    adapted.save_pretrained(tmp_path / "adapter")
    with warnings.catch_warnings():
        warnings.simplefilter("error" if reachable else "ignore")
        warnings.filterwarnings("ignore", category=FutureWarning)
        loaded = PeftModel.from_pretrained(moe_models.make(model_type), tmp_path / "adapter")
    expected, got = factors(adapted), factors(loaded)
    assert set(got) == set(expected)
    same = all(torch.equal(got[name], expected[name]) for name in expected)
    assert same == (reachable or model_type in LOADED_IN_VAIN)


SINGLE = [
    model_type
    for model_type in moe_models.FAMILIES
    if len(layouts := family_of({"model_type": model_type}).experts) == 1 and layouts[0].per_expert
]


@pytest.mark.parametrize("model_type", SINGLE)
def test_peft_reads_single_experts_where_the_data_says_so(model_type: str, tmp_path: Path) -> None:
    model = moe_models.make(model_type)
    checkpoint = open_checkpoint(moe_models.save(model, tmp_path / "model"))
    (layout,) = family_of(checkpoint.config).experts
    single = experts_of(checkpoint, "per-expert")
    weights, deltas = {}, {}
    for linear in single:
        a, b = torch.randn(RANK, linear.shape[1]), torch.randn(linear.shape[0], RANK)
        weights[f"base_model.model.{linear.name}.lora_A.weight"] = a
        weights[f"base_model.model.{linear.name}.lora_B.weight"] = b
        deltas.setdefault(linear.kind, []).append(b @ a)
    (tmp_path / "adapter").mkdir()
    save_file(weights, tmp_path / "adapter" / "adapter_model.safetensors")
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=[m.name for m in single])
    config.save_pretrained(tmp_path / "adapter")
    if not layout.peft_reads_per_expert:
        with pytest.raises(ValueError, match="not found in the base model"):
            PeftModel.from_pretrained(model, tmp_path / "adapter")
        return
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with warnings.catch_warnings():
        # PEFT looks for its own patterns among modules only.
        warnings.filterwarnings("ignore", message=".*(rank|alpha)_pattern keys did not match")
        adapted = PeftModel.from_pretrained(model, tmp_path / "adapter")
    after = adapted.merge_and_unload()
    halves = zip(deltas["experts.gate_proj"], deltas["experts.up_proj"], strict=True)
    joint = [torch.cat(pair) for pair in halves]
    expected = {"gate_up_proj": joint, "down_proj": deltas["experts.down_proj"]}
    changed = [m.name for m in experts_of(checkpoint)]
    for end, parts in expected.items():
        names = [name for name in changed if name.endswith(end)]
        change = torch.cat([after.get_parameter(name) - before[name] for name in names])
        torch.testing.assert_close(change, torch.stack(parts), atol=1e-5, rtol=1e-4)


def check_factors(adapted: PeftModel, experts: list[LinearModule]) -> None:
    """Check that PEFT wraps the experts in the order and the way round that addresses say."""
    found = factors(adapted)
    for linear in experts:
        address = linear.address
        inner = sum(m.address.module == address.module for m in experts) - 1 - address.order
        path = f"base_model.model.{address.module}{'.base_layer' * inner}"
        sides = linear.shape if address.swapped else linear.shape[::-1]
        rank = RANK * max(1, linear.experts)
        assert found[f"{path}.lora_A.default.weight"].shape == (rank, sides[0])
        assert found[f"{path}.lora_B.default.weight"].shape == (sides[1], rank)

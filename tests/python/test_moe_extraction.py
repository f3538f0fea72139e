"""A low-rank change planted in every family with experts comes back through real PEFT."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING

import pytest
import torch
from peft import PeftModel

import moe_models
from loragraft import extract
from loragraft.architecture import Role, take_inventory
from loragraft.architecture.families import family_of
from loragraft.checkpoint import open_checkpoint
from loragraft.verification import verify

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from transformers import PreTrainedModel

    from loragraft.architecture.linear_module import LinearModule

RANK = 2
#: Two stacks share their weights, and PEFT puts the adapter on one of them: it has to be merged.
TIED = {"diffusion_gemma"}
#: A shell around several models, which are run one by one.
SHELLS = {"qwen3_omni_moe"}


def plant(model: PreTrainedModel, modules: list[LinearModule], *, seed: int = 1) -> None:
    """Add a change of rank 2 to every matrix of these modules, a tenth of its size."""
    generator = torch.Generator().manual_seed(seed)
    for module in modules:
        address = module.address
        weight = model.get_submodule(address.module).get_parameter(address.parameter or "weight")
        *stack, rows, columns = weight.shape
        left = torch.randn(*stack, rows, RANK, generator=generator)
        change = left @ torch.randn(*stack, RANK, columns, generator=generator)
        with torch.no_grad():
            weight += 0.1 * change * (weight.norm() / change.norm())


def weights_of(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def logits_of(model: torch.nn.Module) -> torch.Tensor:
    ids = torch.arange(12).reshape(1, 12) % 7 + 3
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return logits


def load(model_type: str, adapter: Path) -> PeftModel:
    """Load an adapter on the base; any warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=FutureWarning)
        return PeftModel.from_pretrained(moe_models.make(model_type), adapter).eval()


def distance(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> float:
    """Largest relative difference of two models' weights."""
    assert set(one) == set(other)
    return max(
        float((one[name] - other[name]).norm() / other[name].norm().clamp_min(1e-12))
        for name in other
    )


@pytest.mark.parametrize("model_type", moe_models.FAMILIES)
def test_what_was_planted_comes_back(model_type: str, tmp_path: Path) -> None:
    model = moe_models.make(model_type)
    base = moe_models.save(model, tmp_path / "base")
    inventory = take_inventory(open_checkpoint(base))
    linears = [one for one in inventory.linears if one.role not in {Role.HEAD, Role.ROUTER}]
    plant(model, linears)
    tuned = moe_models.save(model, tmp_path / "tuned")
    out = tmp_path / "out"
    report = extract(base, tuned, out, rank=RANK, dtype="fp32").report
    assert {row.name for row in report.modules} == {linear.name for linear in linears}
    assert report.summary.error < 1e-5
    layouts = family_of(json.loads((base / "config.json").read_text())).experts
    reachable = not all(layout.unreachable for layout in layouts)
    assert any(row.experts for row in report.modules) == reachable
    loaded, expected = load(model_type, out), weights_of(model)
    if model_type not in SHELLS | TIED:
        answers = logits_of(model)
        worst = float((logits_of(loaded) - answers).abs().max())
        assert worst < 1e-4 * float(answers.abs().max())
    merged = loaded.merge_and_unload()
    assert distance(weights_of(merged), expected) < 1e-5
    checked = verify(base, tuned, out)
    assert checked.summary.error < 1e-5
    assert checked.summary.counts == report.summary.counts


@pytest.mark.parametrize(
    "model_type",
    [
        "deepseek_v3",
        "gpt_oss",
        "granitemoe",
        "jetmoe",
        "llama4_text",
        "mixtral",
        "nemotron_h",
        "olmoe",
        "qwen3_5_moe_text",
        "qwen3_moe",
        "qwen3_vl_moe",
        "step3p7",
    ],
)
@pytest.mark.parametrize("layout", ["peft", "per-expert"])
def test_sides_in_different_forms(model_type: str, layout: str, tmp_path: Path) -> None:
    """One side as on the Hub, the other with the tensors of the model in memory."""
    model = moe_models.make(model_type)
    base = moe_models.save(model, tmp_path / "base")
    other_base = moe_models.save(model, tmp_path / "other-base", as_in_memory=True)
    linears = take_inventory(open_checkpoint(base)).linears
    plant(model, [one for one in linears if one.role not in {Role.HEAD, Role.ROUTER}])
    tuned = moe_models.save(model, tmp_path / "tuned")
    other = moe_models.save(model, tmp_path / "other", as_in_memory=True)
    wanted = extract(base, tuned, rank=RANK, dtype="fp32", moe_layout=layout)
    for sides in ((base, other), (other_base, tuned), (other_base, other)):
        found = extract(*sides, rank=RANK, dtype="fp32", moe_layout=layout)
        assert set(found.factors) == set(wanted.factors)
        assert found.report.summary.error < 1e-5
        norms = {row.name: row.delta_norm for row in wanted.report.modules}
        for row in found.report.modules:
            assert row.delta_norm == pytest.approx(norms[row.name], rel=1e-5), row.name


@pytest.mark.parametrize("model_type", ["qwen3_moe", "mixtral", "olmoe", "longcat_flash"])
def test_single_experts_where_peft_takes_them(model_type: str, tmp_path: Path) -> None:
    model = moe_models.make(model_type)
    base = moe_models.save(model, tmp_path / "base")
    linears = take_inventory(open_checkpoint(base)).linears
    plant(model, [one for one in linears if one.role is Role.EXPERTS])
    tuned = moe_models.save(model, tmp_path / "tuned")
    report = extract(
        base, tuned, tmp_path / "out", rank=RANK, dtype="fp32", moe_layout="per-expert"
    ).report
    assert len(report.modules) >= 9
    assert not any("PEFT does not load" in warning for warning in report.summary.warnings)
    with warnings.catch_warnings():
        # PEFT warns of a pattern that it wrote itself.
        warnings.filterwarnings("ignore", message="The following (rank|alpha)_pattern keys")
        loaded = PeftModel.from_pretrained(moe_models.make(model_type), tmp_path / "out")
    expected = weights_of(model)
    # Gate and up have rank 2 each, of the one change of rank 2 that was planted in both.
    assert distance(weights_of(loaded.merge_and_unload()), expected) < 1e-5


def test_single_experts_where_peft_does_not_take_them(tmp_path: Path) -> None:
    model = moe_models.make("qwen2_moe" if "qwen2_moe" in moe_models.FAMILIES else "axk1")
    base = moe_models.save(model, tmp_path / "base")
    linears = take_inventory(open_checkpoint(base)).linears
    plant(model, [one for one in linears if one.role is Role.EXPERTS])
    tuned = moe_models.save(model, tmp_path / "tuned")
    report = extract(base, tuned, tmp_path / "out", rank=RANK, moe_layout="per-expert").report
    assert any("PEFT does not load" in warning for warning in report.summary.warnings)


def test_an_unchanged_half_is_written_as_zeros(tmp_path: Path) -> None:
    """Loaders expect gate_up_proj and down_proj together, or neither."""
    model = moe_models.make("qwen3_moe")
    base = moe_models.save(model, tmp_path / "base")
    linears = take_inventory(open_checkpoint(base)).linears
    plant(model, [one for one in linears if one.kind == "experts.gate_up_proj"])
    tuned = moe_models.save(model, tmp_path / "tuned")
    report = extract(base, tuned, tmp_path / "out", rank=RANK, dtype="fp32").report
    assert {row.kind for row in report.modules} == {"experts.gate_up_proj"}
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert any(name.endswith("experts.down_proj") for name in config["target_parameters"])
    loaded = load("qwen3_moe", tmp_path / "out")
    assert distance(weights_of(loaded.merge_and_unload()), weights_of(model)) < 1e-5
    assert verify(base, tuned, tmp_path / "out").summary.error < 1e-5


def test_one_expert_alone_changed(tmp_path: Path) -> None:
    model = moe_models.make("mixtral")
    base = moe_models.save(model, tmp_path / "base")
    weight = model.get_parameter("model.layers.1.mlp.experts.down_proj")
    with torch.no_grad():
        weight[2] += torch.outer(torch.ones(weight.shape[1]), torch.ones(weight.shape[2]))
    tuned = moe_models.save(model, tmp_path / "tuned")
    report = extract(base, tuned, tmp_path / "out", rank=RANK, dtype="fp32").report
    changed = [row.name for row in report.tensors if row.outcome == "adapted"]
    assert changed == ["model.layers.1.block_sparse_moe.experts.2.w2.weight"]
    assert [row.name for row in report.modules] == ["model.layers.1.mlp.experts.down_proj"]
    loaded = load("mixtral", tmp_path / "out")
    assert distance(weights_of(loaded.merge_and_unload()), weights_of(model)) < 1e-5

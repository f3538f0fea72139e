"""Adapters on parameters that loragraft did not write: PEFT's own, old ones, broken ones."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import expert_adapters as moe
from loragraft.adapter.norm import norms
from loragraft.adapter.peft import read_adapter
from loragraft.adapter.peft_config import CONFIG_FILE, TENSORS_FILE
from loragraft.adapter.placement import layouts_of, place_adapter
from loragraft.checkpoint import open_checkpoint
from loragraft.errors import FormatError, MismatchError
from loragraft.inspection import inspect
from loragraft.merging import merge

if TYPE_CHECKING:
    from pathlib import Path

    from loragraft.architecture.modules import LinearModule

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)
PROJECTIONS = ["gate_proj", "up_proj", "down_proj"]


def saved_by_peft(base: Path, out: Path, **config: Any) -> Path:
    """An adapter with random factors, made and saved by PEFT."""
    settings = LoraConfig(r=2, lora_alpha=5, task_type="CAUSAL_LM", **config)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings)
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(out)
    return out


CASES: dict[str, dict[str, Any]] = {
    "parameters by the ends of their names": {
        "target_modules": ["q_proj"],
        "target_parameters": ["experts.gate_up_proj", "experts.down_proj"],
    },
    "only one parameter": {"target_modules": [], "target_parameters": ["experts.down_proj"]},
    "names without a module": {
        "target_modules": ["q_proj", "o_proj"],
        "target_parameters": ["gate_up_proj", "down_proj"],
    },
    "beside a regular expression": {
        "target_modules": r".*\.v_proj",
        "target_parameters": ["gate_up_proj", "down_proj"],
    },
    "with other ranks": {
        "target_modules": ["q_proj"],
        "target_parameters": ["experts.gate_up_proj", "experts.down_proj", "gate.weight"],
        "rank_pattern": {r".*\.gate_up_proj": 4, "q_proj": 1},
        "alpha_pattern": {r"experts.down_proj": 3, "q_proj": 1},
        "use_rslora": True,
    },
    "names of the time before experts were fused": {"target_modules": ["q_proj", *PROJECTIONS]},
}


@pytest.mark.filterwarnings("ignore:The following .* keys did not match:RuntimeWarning")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss", "llama4_text"])
def test_reading_and_merging_what_peft_saved(tmp_path: Path, family: str, case: str) -> None:
    old = "before experts were fused" in case
    if (old and family != "qwen3_moe") or ("other ranks" in case and family != "qwen3_moe"):
        # Only Qwen3-MoE among these has such names, and a router called gate.
        family = "qwen3_moe"
    base = moe.build(family, tmp_path / "base")
    adapter = saved_by_peft(base, tmp_path / "a", **CASES[case])
    found = read_adapter(adapter)
    assert found.other_tensors == {}
    assert {m.experts for m in found.modules if ".experts." in m.name} == {moe.EXPERTS}
    assert {m.experts for m in found.modules if ".experts." not in m.name} <= {0}
    model = AutoModelForCausalLM.from_pretrained(base)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = PeftModel.from_pretrained(model, adapter).merge_and_unload().state_dict()
    merge(base, adapter, tmp_path / "out")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    changed = [name for name in before if not torch.equal(before[name], expected[name])]
    assert len(changed) == len(found.modules)
    for name, value in expected.items():
        torch.testing.assert_close(merged[name], value, rtol=1e-6, atol=1e-6)
    by_name = dict(zip((m.name for m in found.modules), norms(found.modules), strict=True))
    for name in changed:
        norm = by_name[name.removesuffix(".weight")]
        assert norm == pytest.approx((expected[name] - before[name]).norm().item(), rel=1e-4)


@pytest.fixture
def qwen(tmp_path: Path) -> Path:
    return moe.build("qwen3_moe", tmp_path / "base")


def expert_modules(base: Path, layout: str = "peft") -> list[LinearModule]:
    return [linear for linear in moe.modules_of(base, layout) if linear.experts]


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss", "llama4_text"])
@pytest.mark.parametrize("noted", [True, False])
def test_layout_of_peft_0_18(tmp_path: Path, family: str, noted: bool) -> None:
    """Loragraft notes the layout; of other files the shapes tell, where out and in differ."""
    base = moe.build(family, tmp_path / "base")
    legacy = expert_modules(base, "peft-legacy")
    random = moe.write_adapter(tmp_path / "a", base, legacy, layout="peft-legacy")
    if not noted:
        path = tmp_path / "a" / TENSORS_FILE
        save_file(load_file(path), path, metadata={"format": "pt"})
    adapter = read_adapter(tmp_path / "a")
    fused = ("peft", "peft-legacy")
    assert layouts_of(adapter) == (("peft-legacy",) if noted else fused)
    placed = place_adapter(adapter, open_checkpoint(base))
    # gpt-oss marks its experts as transposed, so the two layouts are the same.
    same = family == "gpt_oss" and not noted
    assert placed.layout == ("peft" if same else "peft-legacy")
    merge(base, tmp_path / "a", tmp_path / "out")
    before = AutoModelForCausalLM.from_pretrained(base).state_dict()
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    for linear in legacy:
        expected = before[linear.name] + random.change_like(linear.name, before[linear.name])
        torch.testing.assert_close(after[linear.name], expected, rtol=1e-6, atol=1e-6)


def rewrite(directory: Path, config: dict[str, Any] | None = None, drop: str = "") -> None:
    """Change keys of an adapter's config; leave out tensors whose names hold ``drop``."""
    path = directory / CONFIG_FILE
    content = json.loads(path.read_text(encoding="utf-8")) | (config or {})
    path.write_text(json.dumps(content), encoding="utf-8")
    if drop:
        tensors = load_file(directory / TENSORS_FILE)
        kept = {name: value for name, value in tensors.items() if drop not in name}
        save_file(kept, directory / TENSORS_FILE)


@pytest.mark.parametrize(
    ("config", "drop", "message"),
    [
        ({"target_parameters": "experts.down_proj"}, "", "expected a list of names"),
        ({"target_parameters": [1]}, "", "expected a list of names"),
        ({"target_parameters": []}, "", "gives module .*experts no parameter"),
        ({"target_parameters": ["experts.down_proj"]}, "", "has 2 pairs of factors"),
        ({}, ".experts.lora_", "down_proj, gate_up_proj, but the tensor file has 1 pair "),
        ({}, "base_layer.lora_B", "has no lora_B.weight"),
        ({"target_parameters": ["experts.a", "experts.b"]}, "", "order in the model.* a is not"),
        ({"r": 3}, "", r"expected \[E\*3, in\] and \[out, E\*3\].*rank 3 for each expert"),
        ({"r": 100}, "", r"expected \[E\*100, in\]"),
        ({"use_dora": True}, "", "use_dora is True"),
    ],
)
def test_what_does_not_fit_together(
    qwen: Path, tmp_path: Path, config: dict[str, Any], drop: str, message: str
) -> None:
    moe.write_adapter(tmp_path / "a", qwen, expert_modules(qwen))
    rewrite(tmp_path / "a", config, drop)
    with pytest.raises(FormatError, match=message) as caught:
        read_adapter(tmp_path / "a")
    assert "\n" not in str(caught.value)


def test_other_numbers_of_experts_and_other_shapes(qwen: Path, tmp_path: Path) -> None:
    linears = expert_modules(qwen)
    fewer = [linear._replace(experts=3, matrices=linear.matrices[:3]) for linear in linears]
    moe.write_adapter(tmp_path / "fewer", qwen, fewer)
    with pytest.raises(MismatchError, match=r"factors of 3 experts, but .* has 4"):
        merge(qwen, tmp_path / "fewer", tmp_path / "out")
    wider = [linear._replace(shape=(linear.shape[0] + 1, linear.shape[1])) for linear in linears]
    moe.write_adapter(tmp_path / "wider", qwen, wider)
    with pytest.raises(MismatchError, match=r"shape \(17, 12\), but .* has \(16, 12\)"):
        merge(qwen, tmp_path / "wider", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_inspect_counts_experts(qwen: Path, tmp_path: Path) -> None:
    linears = expert_modules(qwen)
    random = moe.write_adapter(tmp_path / "a", qwen, linears)
    found = inspect(tmp_path / "a")
    assert {kind.kind: kind.modules for kind in found.kinds} == {
        "experts.gate_up_proj": 2,
        "experts.down_proj": 2,
    }
    assert sum(kind.parameters for kind in found.kinds) == found.parameters
    assert found.ranks == {2: 4}
    for module in found.modules:
        change = random.change(module.name)
        assert module.norm == pytest.approx(float(np.linalg.norm(change)), rel=1e-5)
        assert module.layer is not None
        assert (module.rank, module.scaling) == (2, 1.5)

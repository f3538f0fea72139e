"""Adapters on experts and other parameters: written, loaded by the real PEFT, merged, verified."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import transformers
from peft import PeftModel
from peft.tuners.lora import LoraLayer

import expert_adapters as moe
from loragraft.adapter.peft import read_adapter
from loragraft.adapter.peft_config import CONFIG_FILE
from loragraft.architecture.roles import Role
from loragraft.checkpoint import open_checkpoint
from loragraft.merging import merge
from loragraft.verification import verify

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from loragraft.architecture.modules import LinearModule

# PEFT 0.21 asks transformers 5.23 by the old name; it has nothing to do with the adapter.
DEPRECATED = "`is_gradient_checkpointing` is deprecated"
#: Experts one by one on disk; with other names; stored [in, out] with and without saying so; with
#: linear attention; with three parameters to a module; without a gate; remapped by PEFT.
FAMILIES = (
    "qwen3_moe",
    "mixtral",
    "gpt_oss",
    "llama4_text",
    "qwen3_5_moe_text",
    "inkling_text",
    "nemotron_h",
    "deepseek_v3",
)


@pytest.fixture(scope="module", params=FAMILIES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return moe.build(request.param, tmp_path_factory.mktemp(request.param) / "base")


def load(directory: Path) -> Any:
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return getattr(transformers, config["architectures"][0]).from_pretrained(directory)


def parameter_of(linear: LinearModule) -> str:
    """Name of the weight in the model in memory."""
    address = linear.address
    return f"{address.module}.{address.parameter or 'weight'}"


def merged_by_peft(base: Path, adapter: Path) -> tuple[dict[str, torch.Tensor], Any]:
    """Load with PEFT, warnings being errors; return the weights before, and the merged model."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=DEPRECATED)
        model = load(base)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        peft_model = PeftModel.from_pretrained(model, adapter)
        result = peft_model.load_adapter(adapter, "again")
    assert result.missing_keys == []
    assert result.unexpected_keys == []
    return before, peft_model.merge_and_unload(adapter_names=["default"])


def check(
    base: Path, adapter: Path, random: moe.RandomAdapter, linears: Sequence[LinearModule]
) -> Any:
    """Compare what PEFT merges with base + scaling·B·A; nothing else may change."""
    before, model = merged_by_peft(base, adapter)
    after = model.state_dict()
    changed = {parameter_of(linear): linear.name for linear in linears}
    assert before.keys() >= changed.keys()
    for name, value in before.items():
        if name in changed:
            change = random.change_like(changed[name], value)
            torch.testing.assert_close(after[name], value + change, rtol=1e-6, atol=1e-6)
        else:
            assert torch.equal(after[name], value), name
    return model


def check_merge(base: Path, adapter: Path, out: Path, expected: Any) -> None:
    """Compare what loragraft merges with the model that PEFT made."""
    result = merge(base, adapter, out)
    assert result.tensors == len(open_checkpoint(base).tensors)
    merged = load(out).state_dict()
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(merged[name], value, rtol=1e-6, atol=1e-6)


def is_expert(linear: LinearModule) -> bool:
    return linear.experts > 0


def is_attention(linear: LinearModule) -> bool:
    return linear.role is Role.ATTENTION


SUBSETS: dict[str, Callable[[LinearModule], bool]] = {
    "experts and attention": lambda m: is_expert(m) or is_attention(m),
    "experts alone": is_expert,
    "the inner parameter alone": lambda m: is_expert(m) and m.address.order == 0,
    "down_proj and attention": lambda m: m.kind == "experts.down_proj" or is_attention(m),
    "one block": lambda m: m.layer == 1,
    "different parameters in different blocks": lambda m: (
        is_expert(m) and (m.layer == 1 or m.kind == "experts.down_proj")
    ),
    "everything": lambda m: m.role is not Role.HEAD,
}


@pytest.mark.parametrize("subset", SUBSETS)
def test_peft_merges_what_was_written(base: Path, subset: str, tmp_path: Path) -> None:
    linears = [linear for linear in moe.modules_of(base) if SUBSETS[subset](linear)]
    assert linears
    random = moe.write_adapter(tmp_path / "a", base, linears)
    check(base, tmp_path / "a", random, linears)
    adapter = read_adapter(tmp_path / "a")
    # The files of a single shared expert look like those of a layer.
    experts = {m.name: m.experts if m.experts > 1 else 0 for m in linears}
    assert {m.name: m.experts for m in adapter.modules} == experts
    assert {m.rank for m in adapter.modules} == {2}
    assert adapter.other_tensors == {}
    assert adapter.layout == "peft"


@pytest.mark.parametrize("subset", ["everything", "the inner parameter alone"])
def test_merge_equals_peft_and_verify_calls_it_bit_exact(
    base: Path, subset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Slabs of a few rows, so that experts' matrices take several.
    monkeypatch.setattr("loragraft.adapter.delta.slabs.__defaults__", (4 * 16 * 5,))
    linears = [linear for linear in moe.modules_of(base) if SUBSETS[subset](linear)]
    random = moe.write_adapter(tmp_path / "a", base, linears)
    expected = check(base, tmp_path / "a", random, linears)
    check_merge(base, tmp_path / "a", tmp_path / "out", expected)
    report = verify(base, tmp_path / "out", tmp_path / "a", optimum=True)
    assert report.summary.bit_exact == 1.0
    assert report.summary.error < 1e-5
    assert {m.name: m.experts for m in report.modules} == {m.name: m.experts for m in linears}
    for module in report.modules:
        change = random.change(module.name)
        assert module.delta_norm == pytest.approx(float(np.linalg.norm(change)), rel=1e-5)
        # Either has rank 2: what the best adapter leaves is the rounding of the weights.
        assert module.optimal_error == pytest.approx(0.0, abs=1e-6)
        spectra = np.linalg.svd(np.atleast_3d(change.T).T, compute_uv=False)
        pooled = np.sqrt((spectra**2).sum(axis=0))
        assert module.singular_values[:2] == pytest.approx(pooled[:2].tolist(), rel=1e-4)


def test_peft_s_own_merge_verifies(base: Path, tmp_path: Path) -> None:
    linears = [linear for linear in moe.modules_of(base) if is_expert(linear)]
    moe.write_adapter(tmp_path / "a", base, linears)
    merged_by_peft(base, tmp_path / "a")[1].save_pretrained(tmp_path / "tuned")
    report = verify(base, tmp_path / "tuned", tmp_path / "a")
    assert report.summary.error < 1e-5
    assert (report.summary.bit_exact or 0.0) > 0.8
    touched = {name for linear in linears for name in linear.tensors}
    assert {row.name for row in report.tensors if row.outcome == "adapted"} == touched
    assert report.summary.counts["unchanged"] == len(report.tensors) - len(touched)


@pytest.mark.filterwarnings("ignore:The following .* keys did not match:RuntimeWarning")
@pytest.mark.parametrize("anchored", [True, False])
def test_different_ranks(base: Path, anchored: bool, tmp_path: Path) -> None:
    """PEFT follows patterns of parameters; 0.21 denies it where there is no layer beside them."""
    linears = [m for m in moe.modules_of(base) if is_expert(m) or (anchored and is_attention(m))]
    ranks = {m.name: 1 + (m.kind == "experts.down_proj") for m in linears if is_expert(m)}
    random = moe.write_adapter(tmp_path / "a", base, linears, rank=3, ranks=ranks)
    adapter = read_adapter(tmp_path / "a")
    assert {m.name: m.rank for m in adapter.modules} == {m.name: 3 for m in linears} | ranks
    assert {m.scaling for m in adapter.modules} == {1.5}
    if anchored:
        check(base, tmp_path / "a", random, linears)
        return
    model = PeftModel.from_pretrained(load(base), tmp_path / "a")
    found = {m.lora_A["default"].out_features for m in model.modules() if isinstance(m, LoraLayer)}
    assert found >= {moe.EXPERTS, 2 * moe.EXPERTS}


@pytest.mark.parametrize("ranks", [(2, 2, 2), (1, 2, 3)])
def test_shared_experts_dense_prefix_and_router_of_deepseek(
    tmp_path: Path, ranks: tuple[int, int, int]
) -> None:
    """As layers PEFT would take them for routed experts; as parameters it loads them."""
    base = moe.build("deepseek_v3", tmp_path / "base")
    linears = [
        m for m in moe.modules_of(base) if m.layer is not None and not m.name.endswith("q_a_proj")
    ]
    shared = [m.name for m in linears if m.address.parameter == "weight"]
    assert {name.rpartition(".")[2] for name in shared} == {
        "gate_proj",
        "up_proj",
        "down_proj",
        "gate",
    }
    own = {name: ranks[i % 3] for i, name in enumerate(shared)}
    random = moe.write_adapter(tmp_path / "a", base, linears, ranks=own)
    expected = check(base, tmp_path / "a", random, linears)
    config = json.loads((tmp_path / "a" / CONFIG_FILE).read_text(encoding="utf-8"))
    assert {f"{name}.weight" for name in shared} < set(config["target_parameters"])
    found = {m.name: (m.experts, m.rank) for m in read_adapter(tmp_path / "a").modules}
    assert found == {m.name: (m.experts, own.get(m.name, 2)) for m in linears}
    check_merge(base, tmp_path / "a", tmp_path / "out", expected)

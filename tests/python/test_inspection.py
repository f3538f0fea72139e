"""`inspect` on checkpoints and adapters."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

import lora_files as files
import tiny_models
from loragraft.errors import FormatError
from loragraft.inspection import inspect
from loragraft.report.inspection import Subject
from loragraft.report.inspection_table import inspection_table
from loragraft.report.page import Facts

if TYPE_CHECKING:
    from pathlib import Path

RANK = 4


def test_checkpoint(tmp_path: Path) -> None:
    weights = files.random_weights()
    weights["model.norm.weight"] = weights["model.norm.weight"].astype(np.float32)
    found = inspect(files.write_checkpoint(tmp_path / "base", weights, shards=2))
    assert found.kind is Subject.CHECKPOINT
    assert found.tensors == len(weights)
    assert found.parameters == sum(array.size for array in weights.values())
    assert found.bytes == sum(array.nbytes for array in weights.values())
    assert found.files == ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    assert [(count.dtype, count.tensors) for count in found.dtypes] == [("BF16", 10), ("F32", 1)]
    assert found.dtypes[1].bytes == 24 * 4
    kinds = {kind.kind: (kind.role, kind.modules, kind.shapes) for kind in found.kinds}
    assert kinds == {
        "q_proj": ("attention", 2, ((24, 24),)),
        "k_proj": ("attention", 2, ((8, 24),)),
        "down_proj": ("mlp", 2, ((24, 56),)),
        "lm_head": ("head", 1, ((40, 24),)),
    }
    assert found.others == {"norm": 3, "embedding": 1}
    assert (found.model_type, found.family, found.layers) == ("llama", "llama", 2)
    assert found.architectures == ("LlamaForCausalLM",)
    assert found.problems == ()
    json.dumps(found.to_json(), allow_nan=False)


def test_single_file_and_missing_config(tmp_path: Path) -> None:
    base = files.write_checkpoint(tmp_path / "base", files.random_weights(), config=None)
    found = inspect(base / "model.safetensors")
    assert found.model_type is None
    assert found.family == "generic"
    assert "config.json" in found.problems[0]


def test_checkpoint_with_little_to_adapt(tmp_path: Path) -> None:
    tensors = {
        "model.layers.0.mlp.up_proj.weight": np.ones((4, 4), np.int16),
        "model.layers.0.mlp.experts.gate_up_proj": np.ones((2, 4, 4), np.float32),
    }
    found = inspect(files.write_checkpoint(tmp_path / "base", tensors))
    problems = " ".join(found.problems)
    assert "No linear layer" in problems
    assert "I16: 1, such as model.layers.0.mlp.up_proj.weight" in problems
    assert "Its experts are left out: tensor 'model.layers.0.mlp.experts.gate_up_proj'" in problems


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_real_layouts(tmp_path: Path, family: str) -> None:
    found = inspect(tiny_models.build(family, tmp_path / "base", seed=0))
    assert found.layers == 3
    assert found.model_type == family
    attention = {kind.kind: kind.shapes for kind in found.kinds if kind.role == "attention"}
    fused = "c_attn" if family == "gpt2" else "query_key_value"
    assert attention[fused] == ((96, 32),)


def test_adapter_norms_equal_dense_products(tmp_path: Path) -> None:
    names = (files.Q0, files.K1, files.DOWN0)
    factors = files.random_factors(names, RANK)
    found = inspect(files.write_adapter(tmp_path / "adapter", factors, alpha=10))
    assert found.kind is Subject.ADAPTER
    assert [module.name for module in found.modules] == [files.DOWN0, files.Q0, files.K1]
    for module in found.modules:
        b, a = (factor.astype(np.float64) for factor in factors[module.name])
        assert module.norm == pytest.approx(2.5 * float(np.linalg.norm(b @ a)), rel=1e-12)
        assert (module.rank, module.alpha, module.scaling) == (RANK, 10.0, 2.5)
        assert module.shape == (b.shape[0], a.shape[1])
        assert module.dtype == "F32"
    assert [module.layer for module in found.modules] == [0, 0, 1]
    assert found.ranks == {RANK: 3}
    assert found.base_model == "owner/toy"
    assert found.layers == 2
    assert found.problems == ()
    assert {kind.kind: kind.modules for kind in found.kinds} == {
        "q_proj": 1,
        "k_proj": 1,
        "down_proj": 1,
    }
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert data["kind"] == "adapter"
    assert data["schema"] == "loragraft.inspection/1"


def test_norm_of_factors_that_nearly_cancel(tmp_path: Path) -> None:
    """‖B·A‖ = 0 exactly, though neither factor is small: the error is within 1e-8·‖B‖·‖A‖."""
    rng = np.random.default_rng(0)
    b, a = rng.standard_normal((24, 1)), rng.standard_normal((1, 24))
    factors = {
        files.Q0: (np.hstack([b, b]).astype(np.float32), np.vstack([a, -a]).astype(np.float32))
    }
    found = inspect(files.write_adapter(tmp_path / "adapter", factors))
    size = float(np.linalg.norm(factors[files.Q0][0]) * np.linalg.norm(factors[files.Q0][1]))
    assert 0.0 <= (found.modules[0].norm or 0.0) <= 3e-8 * size


def test_adapter_with_everything_odd(tmp_path: Path) -> None:
    factors = files.random_factors((files.Q0, files.K1, files.DOWN0), RANK)
    b, a = factors[files.K1]
    factors[files.K1] = (np.zeros_like(b[:, :2]), a[:2])
    b, a = factors[files.DOWN0]
    a[1, 1] = np.inf
    adapter = files.write_adapter(
        tmp_path / "adapter",
        factors,
        more={"base_model.model.model.norm.weight": np.ones(24, np.float32)},
        rank_pattern={"k_proj": 2},
        alpha_pattern={"q_proj": 16},
        use_rslora=True,
    )
    found = inspect(adapter)
    assert found.ranks == {2: 1, RANK: 2}
    assert {module.name: module.norm for module in found.modules}[files.DOWN0] is None
    assert found.others == {"no LoRA factor": 1}
    problems = "\n".join(found.problems)
    for word in (
        f"NaN or Inf: 1, such as {files.DOWN0}",
        f"change nothing (B·A is 0): 1, such as {files.K1}",
        "model.norm.weight",
        "Ranks differ",
        "Alpha differs",
        "rsLoRA",
    ):
        assert word in problems
    scaling = {module.name: module.scaling for module in found.modules}
    assert scaling[files.Q0] == 16 / RANK**0.5
    json.dumps(found.to_json(), allow_nan=False)


def test_file_of_an_adapter_means_the_adapter(tmp_path: Path) -> None:
    adapter = files.write_adapter(tmp_path / "adapter", files.random_factors((files.Q0,), RANK))
    assert inspect(adapter / "adapter_model.safetensors").modules == inspect(adapter).modules
    assert inspect(adapter / "adapter_config.json").kind is Subject.ADAPTER


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(FormatError):
        inspect(tmp_path)


def test_a_hostile_config_reaches_no_terminal(tmp_path: Path) -> None:
    config = {"model_type": "\x1b[31mred", "architectures": ["a\nb"]}
    base = files.write_checkpoint(tmp_path / "base", files.random_weights(), config=config)
    text = inspection_table(inspect(base)).plain(120)
    assert text is None or "\x1b" not in text
    facts = next(part for part in inspection_table(inspect(base)).parts if isinstance(part, Facts))
    assert all(value.isprintable() for _, value in facts.rows)

"""Corners where experts once came out wrong, or were left out in silence."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
import torch
from peft import PeftModel

import lora_files as files
import moe_models
from loragraft import extract
from loragraft.architecture import Role, take_inventory
from loragraft.checkpoint import open_checkpoint
from loragraft.errors import FormatError, MismatchError, StoppedError, UsageError
from loragraft.verification import verify
from test_moe_extraction import distance, plant, weights_of

if TYPE_CHECKING:
    from pathlib import Path


def experts_pair(tmp_path: Path, model_type: str, *, noise: float = 0.0) -> tuple[Path, Path, Any]:
    """A pair whose experts change by rank 2, and noise of full rank if need be."""
    model = moe_models.make(model_type)
    base = moe_models.save(model, tmp_path / "base")
    linears = take_inventory(open_checkpoint(base)).linears
    plant(model, [one for one in linears if one.role is Role.EXPERTS])
    if noise:
        generator = torch.Generator().manual_seed(4)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "experts" in name:
                    weight.add_(torch.randn(weight.shape, generator=generator), alpha=noise)
    return base, moe_models.save(model, tmp_path / "tuned"), model


def edit_config(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_another_layout_is_another_run(tmp_path: Path) -> None:
    base, tuned, _ = experts_pair(tmp_path, "qwen3_vl_moe")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(StoppedError):
        extract(base, tuned, tmp_path / "out", rank=2, moe_layout="peft-legacy", progress=stop)
    with pytest.raises(UsageError, match="unfinished run of other inputs, options"):
        extract(base, tuned, tmp_path / "out", rank=2, moe_layout="peft", resume=True)


def test_what_the_rank_rule_left_out_is_not_in_the_file(tmp_path: Path) -> None:
    base, tuned, _ = experts_pair(tmp_path, "qwen3_moe", noise=0.02)
    report = extract(base, tuned, tmp_path / "out", rank="budget=500", dtype="fp32").report
    kept = {row.name for row in report.modules}
    assert {name.rpartition(".")[2] for name in kept} == {"gate_up_proj"} or len(kept) < 4
    checked = verify(base, tuned, tmp_path / "out")
    adapted = [row for row in checked.modules if row.name in kept]
    for ours, theirs in zip(
        sorted(report.modules, key=lambda row: row.name),
        sorted(adapted, key=lambda row: row.name),
        strict=True,
    ):
        assert ours.relative_error == pytest.approx(theirs.relative_error, rel=1e-5)
    zero = [row for row in checked.modules if row.name not in kept]
    assert zero
    assert all(row.relative_error == pytest.approx(1.0) for row in zero)


def test_an_unknown_family_loads_where_it_is_proven(tmp_path: Path) -> None:
    model = moe_models.make("qwen3_moe")
    base = moe_models.save(model, tmp_path / "base", as_in_memory=True)
    linears = take_inventory(open_checkpoint(base)).linears
    plant(model, [one for one in linears if one.role is Role.EXPERTS])
    tuned = moe_models.save(model, tmp_path / "tuned", as_in_memory=True)
    for side in (base, tuned):
        edit_config(side, model_type="nobody_knows_it")
    extract(base, tuned, tmp_path / "out", rank=2, dtype="fp32")
    assert verify(base, tuned, tmp_path / "out").summary.error < 1e-5
    loaded = PeftModel.from_pretrained(moe_models.make("qwen3_moe"), tmp_path / "out")
    assert distance(weights_of(loaded.merge_and_unload()), weights_of(model)) < 1e-5


@pytest.mark.parametrize("model_type", ["qwen3_moe", "mixtral"])
def test_single_experts_share_a_rank(tmp_path: Path, model_type: str) -> None:
    """PEFT stacks them, whatever rank each would have needed."""
    base, tuned, _ = experts_pair(tmp_path, model_type, noise=0.02)
    out = tmp_path / "out"
    report = extract(
        base, tuned, out, rank="error=0.5", max_rank=16, dtype="fp32", moe_layout="per-expert"
    ).report
    checked = verify(base, tuned, out)
    assert checked.summary.error == pytest.approx(report.summary.error, rel=1e-4)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The following (rank|alpha)_pattern keys")
        PeftModel.from_pretrained(moe_models.make(model_type), out)


def test_a_single_expert_alone_changed(tmp_path: Path) -> None:
    model = moe_models.make("mixtral")
    base = moe_models.save(model, tmp_path / "base")
    with torch.no_grad():
        for kind in ("gate_up_proj", "down_proj"):
            weight = model.get_parameter(f"model.layers.1.mlp.experts.{kind}")
            weight[2] += torch.outer(torch.ones(weight.shape[1]), torch.ones(weight.shape[2]))
    tuned = moe_models.save(model, tmp_path / "tuned")
    extract(base, tuned, tmp_path / "out", rank=2, dtype="fp32", moe_layout="per-expert")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The following (rank|alpha)_pattern keys")
        loaded = PeftModel.from_pretrained(moe_models.make("mixtral"), tmp_path / "out")
    assert distance(weights_of(loaded.merge_and_unload()), weights_of(model)) < 1e-5


def test_a_config_on_one_side_will_do(tmp_path: Path) -> None:
    base, tuned, _ = experts_pair(tmp_path, "qwen3_moe")
    wanted = extract(base, tuned, rank=2, dtype="fp32").report
    for side in (base, tuned):
        config = (side / "config.json").read_text()
        (side / "config.json").unlink()
        report = extract(base, tuned, rank=2, dtype="fp32").report
        names = {row.name for row in report.modules}
        assert names == {row.name for row in wanted.modules}
        (side / "config.json").write_text(config)


def test_experts_that_one_side_does_not_tell(tmp_path: Path) -> None:
    model = moe_models.make("qwen3_moe")
    base = moe_models.save(model, tmp_path / "base")
    plant(model, list(take_inventory(open_checkpoint(base)).linears))
    tuned = moe_models.save(model, tmp_path / "tuned", as_in_memory=True)
    edit_config(tuned, model_type="nobody_knows_it", hidden_size=7)
    with pytest.raises(MismatchError, match=r"have no counterpart in .*'nobody_knows_it'"):
        extract(base, tuned, tmp_path / "out", rank=2)


def test_no_false_alarm_where_the_sides_are_stored_differently(tmp_path: Path) -> None:
    model = moe_models.make("mixtral")
    base = moe_models.save(model, tmp_path / "base")
    linears = take_inventory(open_checkpoint(base)).linears
    plant(model, [one for one in linears if one.role is Role.EXPERTS])
    tuned = moe_models.save(model, tmp_path / "tuned", as_in_memory=True)
    report = extract(base, tuned, tmp_path / "out", rank=2).report
    assert not any("could not be compared" in warning for warning in report.summary.warnings)


def fp8(weight: Any) -> tuple[Any, Any]:
    scale = np.array([[np.abs(weight).max() / 448]], np.float32)
    return (weight / scale).astype(ml_dtypes.float8_e4m3fn), scale


def test_codes_that_have_no_module_are_never_subtracted(tmp_path: Path) -> None:
    """A block that the model does not load, in fp8 on one side."""
    rng = np.random.default_rng(0)
    config = {
        "model_type": "deepseek_v3",
        "architectures": ["DeepseekV3ForCausalLM"],
        "num_hidden_layers": 1,
    }
    name, beyond = "model.layers.0.self_attn.o_proj.weight", "model.layers.1.eh_proj.weight"
    plain = {name: rng.standard_normal((64, 64)), beyond: rng.standard_normal((64, 64))}
    plain = {key: value.astype(np.float32) for key, value in plain.items()}
    codes, scale = fp8(plain[beyond])
    tuned = {name: plain[name] + np.float32(0.1), beyond: codes, f"{beyond}_scale_inv": scale}
    report = extract(
        files.write_checkpoint(tmp_path / "base", plain, config=config),
        files.write_checkpoint(tmp_path / "tuned", tuned, config=config),
        tmp_path / "out",
        rank=2,
    ).report
    (row,) = [row for row in report.tensors if row.name == beyond]
    assert row.outcome == "left_out"
    assert row.relative_change is None or row.relative_change < 0.1


def test_scales_that_some_weights_lack(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = [f"model.layers.{i}.self_attn.q_proj.weight" for i in range(3)]
    plain = {name: rng.standard_normal((64, 64)).astype(np.float32) for name in names}
    coded: dict[str, Any] = {}
    for name, weight in plain.items():
        coded[name], coded[f"{name}_scale_inv"] = fp8(weight)
    del coded[f"{names[1]}_scale_inv"]
    base = files.write_checkpoint(tmp_path / "base", plain)
    tuned = files.write_checkpoint(tmp_path / "tuned", coded)
    with pytest.raises(FormatError, match=r"layers\.1.*without scales.*others of the same format"):
        extract(base, tuned, tmp_path / "out", rank=2)


def test_whole_tensors_need_a_file(tmp_path: Path) -> None:
    base, tuned, _ = experts_pair(tmp_path, "mixtral")
    with pytest.raises(UsageError, match="save_whole needs an output"):
        extract(base, tuned, save_whole="all")


@pytest.mark.parametrize("swap", [False, True])
def test_a_text_model_against_one_that_contains_it(tmp_path: Path, swap: bool) -> None:
    model = moe_models.make("qwen3_5_moe_text")
    base = moe_models.save(model, tmp_path / "base")
    linears = take_inventory(open_checkpoint(base)).linears
    plant(model, [one for one in linears if one.role not in {Role.HEAD, Role.ROUTER}])
    tuned = moe_models.save(model, tmp_path / "tuned")
    other = tuned if not swap else base
    tensors = files.read_checkpoint(other)
    wrapped = {
        name.replace("model.", "model.language_model.", 1)
        if name.startswith("model.") and not name.startswith("model.language_model.")
        else name: value
        for name, value in tensors.items()
    }
    text = json.loads((other / "config.json").read_text())
    config = {
        "model_type": "qwen3_5_moe",
        "architectures": ["Qwen3_5MoeForConditionalGeneration"],
        "text_config": text,
    }
    files.write_checkpoint(tmp_path / "wrapped", wrapped, config=config)
    sides = (base, tmp_path / "wrapped") if not swap else (tmp_path / "wrapped", tuned)
    report = extract(*sides, tmp_path / "out", rank=2, dtype="fp32").report
    assert len(report.modules) == len(extract(base, tuned, rank=2).report.modules)
    assert report.summary.error < 1e-5

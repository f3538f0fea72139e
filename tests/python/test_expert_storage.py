"""Merging and verifying where two checkpoints store their experts in different ways."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import expert_adapters as moe
import tiny_models
from loragraft.errors import FormatError, MismatchError, NonFiniteError
from loragraft.merging import merge
from loragraft.report.model import Outcome, Report
from loragraft.verification import verify

if TYPE_CHECKING:
    from pathlib import Path

    from loragraft.architecture.modules import LinearModule

LAYER = "model.layers.1.mlp.experts"


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return moe.build("qwen3_moe", tmp_path_factory.mktemp("qwen") / "base")


def experts_of(base: Path, layout: str = "peft") -> list[LinearModule]:
    return [m for m in moe.modules_of(base, layout) if m.kind.startswith("experts.")]


def noisy(base: Path, out: Path, *, only: str = "") -> Path:
    """A copy with noise on its matrices."""
    generator = torch.Generator().manual_seed(8)
    tensors = {
        name: value + 0.05 * torch.randn(value.shape, generator=generator)
        if value.dim() > 1 and only in name
        else value
        for name, value in tiny_models.read_tensors(base).items()
    }
    return moe.store(tensors, out, base)


def row(report: Report, name: str) -> Any:
    (found,) = [tensor for tensor in report.tensors if tensor.name == name]
    return found


def test_the_two_sides_may_differ_in_form(qwen: Path, tmp_path: Path) -> None:
    moe.write_adapter(tmp_path / "a", qwen, experts_of(qwen))
    tuned = noisy(qwen, tmp_path / "tuned", only="experts")
    bases = qwen, moe.store_fused(qwen, tmp_path / "base-fused")
    others = tuned, moe.store_fused(tuned, tmp_path / "tuned-fused")
    reports = [verify(base, other, tmp_path / "a") for base in bases for other in others]
    for report in reports:
        for module, expected in zip(report.modules, reports[0].modules, strict=True):
            assert module.name == expected.name
            assert module.relative_error == pytest.approx(expected.relative_error, rel=1e-12)
            assert module.delta_norm == pytest.approx(expected.delta_norm, rel=1e-12)
            assert module.bit_exact == expected.bit_exact
        counts = report.summary.counts
        assert counts["adapted"] + counts["unchanged"] == len(report.tensors)
        json.dumps(report.to_json(), allow_nan=False)
    # Stored alike on both sides, every tensor has its own change; else only those of BASE do.
    before, after = tiny_models.read_tensors(qwen), tiny_models.read_tensors(tuned)
    name = f"{LAYER}.2.up_proj.weight"
    change = ((after[name] - before[name]).norm() / before[name].norm()).item()
    assert row(reports[0], name).relative_change == pytest.approx(change, rel=1e-5)
    assert row(reports[1], name).relative_change == pytest.approx(change, rel=1e-5)
    fused = row(reports[1], f"{LAYER}.gate_up_proj")
    module = next(m for m in reports[1].modules if m.name == fused.name)
    assert (fused.outcome, fused.dtype_base, fused.shape) == (Outcome.ADAPTED, None, (4, 24, 16))
    assert fused.relative_change == pytest.approx(module.delta_norm / module.weight_norm, rel=1e-9)


def test_modules_that_are_not_adapted(qwen: Path, tmp_path: Path) -> None:
    """Stored in another way they are compared by what they stand for."""
    attention = [m for m in moe.modules_of(qwen) if m.name.endswith("o_proj")]
    moe.write_adapter(tmp_path / "a", qwen, attention)
    tuned = noisy(qwen, tmp_path / "noisy", only="layers.1.mlp.experts.0.down_proj")
    report = verify(qwen, moe.store_fused(tuned, tmp_path / "tuned"), tmp_path / "a")
    same = row(report, "model.layers.0.mlp.experts.3.gate_proj.weight")
    assert (same.outcome, same.why) == (Outcome.UNCHANGED, "equal values, stored in another way")
    assert row(report, f"{LAYER}.gate_up_proj").outcome is Outcome.UNCHANGED
    moved = row(report, f"{LAYER}.0.down_proj.weight")
    assert (moved.outcome, moved.why) == (Outcome.LEFT_OUT, "not in the adapter")
    assert moved.relative_change > 0.05
    assert row(report, f"{LAYER}.1.down_proj.weight").outcome is Outcome.UNCHANGED
    assert row(report, f"{LAYER}.down_proj").outcome is Outcome.LEFT_OUT
    assert sum(report.summary.counts.values()) == len(report.tensors)


def test_merging_into_either_form_gives_the_same_weights(qwen: Path, tmp_path: Path) -> None:
    moe.write_adapter(tmp_path / "a", qwen, experts_of(qwen))
    fused = moe.store_fused(qwen, tmp_path / "fused")
    merge(qwen, tmp_path / "a", tmp_path / "out")
    merge(fused, tmp_path / "a", tmp_path / "out-fused")
    expected = moe.fuse(tiny_models.read_tensors(tmp_path / "out"))
    merged = tiny_models.read_tensors(tmp_path / "out-fused")
    assert merged.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(merged[name], value), name
    assert verify(qwen, tmp_path / "out-fused", tmp_path / "a").summary.bit_exact == 1.0


@pytest.mark.parametrize("dtype", [None, "bf16"])
@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral", "gpt_oss", "llama4_text"])
def test_an_adapter_of_single_experts(tmp_path: Path, family: str, dtype: str | None) -> None:
    """Also where their rows are every second column of a tensor that others share."""
    base = moe.build(family, tmp_path / "base")
    single = experts_of(base, "per-expert")
    chosen = [m for i, m in enumerate(single) if i % 7 != 3 and m.layer == 1]
    random = moe.write_adapter(tmp_path / "a", base, chosen, layout="per-expert")
    merge(base, tmp_path / "a", tmp_path / "out", dtype=dtype)
    # What the tensors hold by the names of single experts, and the same with the changes.
    for linear in single:
        (before,), (after,) = (
            [m.matrices for m in experts_of(side, "per-expert") if m.name == linear.name]
            for side in (base, tmp_path / "out")
        )
        values = [values_of(source) for source in (*before, *after)]
        expected = values[0]
        if linear.name in random.factors:
            expected = expected + random.change(linear.name)
        tolerance = 2.0**-8 if dtype else 1e-6
        np.testing.assert_allclose(values[1], expected, rtol=tolerance, atol=1e-6)
        if linear.name not in random.factors and dtype is None:
            np.testing.assert_array_equal(values[1], values[0])
    report = verify(base, tmp_path / "out", tmp_path / "a")
    assert report.summary.bit_exact == 1.0
    assert {m.name for m in report.modules} == {m.name for m in chosen}
    if dtype is None:
        assert report.summary.counts["left_out"] == 0


def values_of(source: Any) -> np.ndarray[Any, Any]:
    from loragraft.tensor_reader import TensorReader
    from loragraft.weights.reader import rows

    with TensorReader() as reader:
        return rows(reader, source, 0, source.rows)


def quantise(directory: Path, out: Path, *, only: str) -> tuple[Path, dict[str, torch.Tensor]]:
    """Store matrices as fp8 with a scale for every 4 x 4 block; return what they stand for."""
    values, stored = tiny_models.read_tensors(directory), {}
    for name, value in list(values.items()):
        if only in name and name.endswith(".weight") and value.dim() == 2:
            down, across = (math.ceil(side / 4) for side in value.shape)
            padded = torch.zeros(4 * down, 4 * across)
            padded[: value.shape[0], : value.shape[1]] = value
            blocks = padded.reshape(down, 4, across, 4)
            scales = blocks.abs().amax(dim=(1, 3)) / 448.0
            spread = scales.repeat_interleave(4, 0).repeat_interleave(4, 1)
            spread = spread[: value.shape[0], : value.shape[1]]
            codes = (value / spread).to(torch.float8_e4m3fn)
            values[name] = codes.float() * spread
            stored |= {name: codes, f"{name}_scale_inv": scales}
        else:
            stored[name] = value
    moe.store(stored, out, directory)
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [4, 4]}
    (out / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return out, values


@pytest.mark.parametrize("only", ["", "mlp.experts"])
def test_quantised_on_either_side(qwen: Path, tmp_path: Path, only: str) -> None:
    """The figures are those of what the codes stand for."""
    linears = experts_of(qwen)
    moe.write_adapter(tmp_path / "a", qwen, linears)
    tuned = noisy(qwen, tmp_path / "tuned", only="experts")
    codes, values = quantise(tuned, tmp_path / "codes", only=only)
    dense = moe.store(values, tmp_path / "dense", qwen)
    for sides, same in (
        ((qwen, codes), (qwen, dense)),
        ((codes, qwen), (dense, qwen)),
        ((codes, moe.store_fused(qwen, tmp_path / "fused")), (dense, qwen)),
    ):
        report, expected = (verify(*pair, tmp_path / "a", optimum=True) for pair in (sides, same))
        for module, plain in zip(report.modules, expected.modules, strict=True):
            assert module.relative_error == pytest.approx(plain.relative_error, rel=1e-6)
            assert module.weight_norm == pytest.approx(plain.weight_norm, rel=1e-6)
            assert module.optimal_error == pytest.approx(plain.optimal_error, rel=1e-5)
        measured = sides[1] != codes
        assert (report.summary.bit_exact is None) == (not measured)
        assert all((m.rounding_floor is None) == (not measured) for m in report.modules)
        assert report.summary.verdict.endswith("bit for bit." if measured else "%.")
        json.dumps(report.to_json(), allow_nan=False)


def test_quantised_modules_that_are_not_adapted(qwen: Path, tmp_path: Path) -> None:
    attention = [m for m in moe.modules_of(qwen) if m.name.endswith("o_proj")]
    moe.write_adapter(tmp_path / "a", qwen, attention)
    codes, values = quantise(qwen, tmp_path / "codes", only="mlp.experts")
    name = f"{LAYER}.0.up_proj.weight"
    for other in (codes, moe.store(values, tmp_path / "dense", qwen)):
        assert row(verify(codes, other, tmp_path / "a"), name).outcome is Outcome.UNCHANGED
    assert row(verify(codes, qwen, tmp_path / "a"), name).outcome is Outcome.LEFT_OUT
    scales = row(verify(codes, codes, tmp_path / "a"), f"{name}_scale_inv")
    assert (scales.outcome, scales.why) == (Outcome.UNCHANGED, "the same bits on both sides")


def test_merging_into_codes_is_refused(qwen: Path, tmp_path: Path) -> None:
    codes, _ = quantise(qwen, tmp_path / "codes", only="experts.2.up_proj")
    moe.write_adapter(tmp_path / "a", qwen, experts_of(qwen))
    with pytest.raises(
        MismatchError, match=r"experts\.2\.up_proj\.weight is stored as F8_E4M3.*dequantise"
    ):
        merge(codes, tmp_path / "a", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_codes_that_no_module_changes_are_copied_with_their_scales(
    qwen: Path, tmp_path: Path
) -> None:
    codes, _ = quantise(qwen, tmp_path / "codes", only="mlp.experts")
    attention = [m for m in moe.modules_of(qwen) if m.name.endswith("o_proj")]
    moe.write_adapter(tmp_path / "a", qwen, attention)
    merge(codes, tmp_path / "a", tmp_path / "out", dtype="bf16")
    before, after = tiny_models.read_tensors(codes), tiny_models.read_tensors(tmp_path / "out")
    for name, value in before.items():
        if "experts" in name:
            assert after[name].dtype == value.dtype
            assert torch.equal(after[name].view(torch.uint8), value.view(torch.uint8)), name
        else:
            assert after[name].dtype == torch.bfloat16


def test_microscaled_against_bf16(tmp_path: Path) -> None:
    """gpt-oss as it was published, against a copy as trainers save it."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    base = moe.build("gpt_oss", tmp_path / "bf16")
    tensors = tiny_models.read_tensors(base)
    generator = torch.Generator().manual_seed(5)
    stored, dense = {}, {}
    for name, value in tensors.items():
        if name.endswith(("gate_up_proj", "down_proj")):
            rows, columns = 64 if name.endswith("gate_up_proj") else 32, 32
            blocks = torch.randint(0, 256, (4, rows, 1, 16), generator=generator).to(torch.uint8)
            scales = torch.randint(118, 122, (4, rows, 1), generator=generator).to(torch.uint8)
            dense[name] = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
            assert dense[name].shape == (4, columns, rows)
            stored |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        else:
            stored[name] = dense[name] = value
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    config |= {"hidden_size": 32, "intermediate_size": 32}
    (base / "config.json").write_text(json.dumps(config), encoding="utf-8")
    packed = moe.store(stored, tmp_path / "packed", base)
    plain = moe.store(dense, tmp_path / "plain", base)
    linears = experts_of(packed)
    assert {m.experts for m in linears} == {moe.EXPERTS}
    random = moe.write_adapter(tmp_path / "a", packed, linears)
    merge(plain, tmp_path / "a", tmp_path / "tuned")
    report = verify(packed, tmp_path / "tuned", tmp_path / "a")
    assert report.summary.bit_exact == pytest.approx(1.0, abs=0.02)
    assert report.summary.error < 1e-5
    back = verify(tmp_path / "tuned", packed, tmp_path / "a")
    assert back.summary.energy == pytest.approx(-3.0, abs=1e-3)
    assert set(random.factors) == {m.name for m in report.modules}


def test_an_expert_is_missing_or_one_too_many(qwen: Path, tmp_path: Path) -> None:
    moe.write_adapter(tmp_path / "a", qwen, experts_of(qwen))
    tensors = tiny_models.read_tensors(qwen)
    without = {name: value for name, value in tensors.items() if f"{LAYER}.2.up" not in name}
    broken = moe.store(without, tmp_path / "without", qwen)
    with pytest.raises((FormatError, MismatchError), match="experts"):
        verify(qwen, broken, tmp_path / "a")
    with pytest.raises((FormatError, MismatchError), match="experts"):
        merge(broken, tmp_path / "a", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_weight_of_an_expert_is_named(qwen: Path, tmp_path: Path, value: float) -> None:
    moe.write_adapter(tmp_path / "a", qwen, experts_of(qwen))
    tensors = tiny_models.read_tensors(qwen)
    name = f"{LAYER}.3.up_proj.weight"
    tensors[name] = tensors[name].clone()
    tensors[name][2, 3] = value
    broken = moe.store(tensors, tmp_path / "broken", qwen)
    with pytest.raises(NonFiniteError, match=name.replace(".", r"\.")):
        verify(qwen, broken, tmp_path / "a")
    with pytest.raises(NonFiniteError, match=name.replace(".", r"\.")):
        merge(broken, tmp_path / "a", tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))


def test_a_module_that_tuned_cannot_give(qwen: Path, tmp_path: Path) -> None:
    linears = experts_of(qwen)
    moe.write_adapter(tmp_path / "a", qwen, linears)
    tensors = tiny_models.read_tensors(qwen)
    kept = {name: value for name, value in tensors.items() if ".1.mlp.experts." not in name}
    without = moe.store(kept, tmp_path / "without", qwen)
    with pytest.raises(MismatchError, match=r"layers\.1\.mlp\.experts.*only in BASE"):
        verify(qwen, without, tmp_path / "a")
    with pytest.raises(MismatchError, match=r"no linear layer for 2 of the 4 modules"):
        verify(without, qwen, tmp_path / "a")


def test_experts_of_an_unknown_family(qwen: Path, tmp_path: Path) -> None:
    """Why they could not be told is said where an adapter needs them."""
    moe.write_adapter(tmp_path / "a", qwen, experts_of(qwen))
    square = moe.fuse(tiny_models.read_tensors(qwen))
    square = {
        name: value[..., :12, :12] if value.dim() == 3 else value for name, value in square.items()
    }
    other = moe.store({n: v.contiguous() for n, v in square.items()}, tmp_path / "other", qwen)
    config = json.loads((other / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "novel", "architectures": ["NovelForCausalLM"], "hidden_size": 12}
    (other / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(MismatchError, match=r"gate_up_proj \(.*stacks the experts"):
        merge(other, tmp_path / "a", tmp_path / "out")

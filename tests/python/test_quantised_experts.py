"""Experts in fp8 and MXFP4 against experts in bf16, and against one another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest

import lora_files as files
from loragraft import extract
from loragraft.errors import FormatError, MismatchError
from loragraft.verification import verify

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Tensors = dict[str, NDArray[Any]]

EXPERTS, HIDDEN, UNITS = 3, 96, 64
BLOCK = "model.layers.0.mlp.experts"
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
GPT_OSS = {
    "model_type": "gpt_oss",
    "architectures": ["GptOssForCausalLM"],
    "hidden_size": HIDDEN,
    "intermediate_size": UNITS,
    "num_local_experts": EXPERTS,
    "num_hidden_layers": 1,
}
DEEPSEEK = {
    "model_type": "deepseek_v3",
    "architectures": ["DeepseekV3ForCausalLM"],
    "hidden_size": HIDDEN,
    "moe_intermediate_size": UNITS,
    "n_routed_experts": EXPERTS,
    "num_hidden_layers": 1,
}


def mxfp4(shape: tuple[int, int, int], seed: int) -> tuple[Tensors, NDArray[np.float32]]:
    """Random blocks and scales of ``[experts, out, in]``, and what they mean."""
    rng = np.random.default_rng(seed)
    experts, rows, columns = shape
    codes = rng.integers(0, 16, (experts, rows, columns // 32, 32)).astype(np.uint8)
    scales = rng.integers(118, 122, (experts, rows, columns // 32)).astype(np.uint8)
    values = np.where(codes & 8, -1, 1) * E2M1[codes & 7] * 2.0 ** (scales[..., None] - 127.0)
    stored = {
        "blocks": codes[..., 0::2] | (codes[..., 1::2] << 4),
        "scales": scales,
    }
    return stored, values.reshape(shape).astype(np.float32)


def gpt_oss_sides() -> tuple[Tensors, Tensors, Tensors]:
    """MXFP4, the same in bf16, and that with a change of rank 2 in every expert."""
    packed: Tensors = {}
    plain: Tensors = {}
    tuned: Tensors = {}
    rng = np.random.default_rng(5)
    for name, shape in {
        "gate_up_proj": (EXPERTS, 2 * UNITS, HIDDEN),
        "down_proj": (EXPERTS, HIDDEN, UNITS),
    }.items():
        stored, values = mxfp4(shape, len(name))
        packed |= {f"{BLOCK}.{name}_{kind}": array for kind, array in stored.items()}
        in_out = np.ascontiguousarray(values.transpose(0, 2, 1))
        plain[f"{BLOCK}.{name}"] = in_out.astype(ml_dtypes.bfloat16)
        left = rng.standard_normal((EXPERTS, in_out.shape[1], 2))
        change = 0.02 * left @ rng.standard_normal((EXPERTS, 2, in_out.shape[2]))
        tuned[f"{BLOCK}.{name}"] = (in_out + change).astype(ml_dtypes.bfloat16)
    return packed, plain, tuned


def test_mxfp4_against_bf16(tmp_path: Path) -> None:
    """gpt-oss as it is released, and a fine-tune of it in bf16, which lies the other way round."""
    packed, plain, tuned = gpt_oss_sides()
    other = files.write_checkpoint(tmp_path / "tuned", tuned, config=GPT_OSS)
    quantised = GPT_OSS | {"quantization_config": {"quant_method": "mxfp4"}}
    base = files.write_checkpoint(tmp_path / "packed", packed, config=quantised)
    same = files.write_checkpoint(tmp_path / "plain", plain, config=GPT_OSS)
    found = extract(base, other, tmp_path / "out", rank=4, dtype="fp32").report
    wanted = extract(same, other, rank=4, dtype="fp32").report
    assert {row.name for row in found.modules} == {f"{BLOCK}.gate_up_proj", f"{BLOCK}.down_proj"}
    for ours, theirs in zip(
        sorted(found.modules, key=lambda row: row.name),
        sorted(wanted.modules, key=lambda row: row.name),
        strict=True,
    ):
        assert ours.delta_norm == pytest.approx(theirs.delta_norm, rel=1e-6)
        assert ours.energy == pytest.approx(theirs.energy, abs=1e-5)
        assert ours.experts == EXPERTS
    assert {row.name: row.outcome for row in found.tensors} == dict.fromkeys(
        (*packed, *tuned), "adapted"
    )
    # The definition in NumPy, straight from the files.
    checked = verify(base, other, tmp_path / "out")
    assert checked.summary.energy == pytest.approx(found.summary.energy, abs=1e-5)


def test_equal_values_in_different_storage(tmp_path: Path) -> None:
    packed, plain, tuned = gpt_oss_sides()
    name = f"{BLOCK}.down_proj"
    base = files.write_checkpoint(tmp_path / "packed", packed, config=GPT_OSS)
    other = files.write_checkpoint(tmp_path / "other", plain | {name: tuned[name]}, config=GPT_OSS)
    report = extract(base, other, rank=4).report
    assert [row.name for row in report.modules] == [name]
    outcomes = {row.name: row.outcome for row in report.tensors}
    assert outcomes[f"{BLOCK}.gate_up_proj_blocks"] == outcomes[f"{BLOCK}.gate_up_proj"]
    assert outcomes[f"{BLOCK}.gate_up_proj"] == "unchanged"


def fp8_experts(seed: int = 0, change: float = 0.0) -> tuple[Tensors, Tensors]:
    """DeepSeek's experts in fp8 with one scale for 128 x 128, and what they mean."""
    rng = np.random.default_rng(seed)
    stored: Tensors = {}
    meant: Tensors = {}
    noise = np.random.default_rng(9)
    for expert in range(EXPERTS):
        for kind, shape in {
            "gate_proj": (UNITS, HIDDEN),
            "up_proj": (UNITS, HIDDEN),
            "down_proj": (HIDDEN, UNITS),
        }.items():
            weight = rng.standard_normal(shape)
            left = noise.standard_normal((shape[0], 2))
            weight += change * left @ noise.standard_normal((2, shape[1]))
            scale = np.array([[np.abs(weight).max() / 448]], np.float32)
            name = f"{BLOCK}.{expert}.{kind}.weight"
            stored[name] = (weight / scale).astype(ml_dtypes.float8_e4m3fn)
            stored[f"{name}_scale_inv"] = scale
            meant[name] = stored[name].astype(np.float32) * scale
    return stored, meant


@pytest.mark.parametrize("layout", ["peft", "per-expert"])
def test_fp8_on_both_sides(tmp_path: Path, layout: str) -> None:
    config = DEEPSEEK | {
        "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}
    }
    paths = {}
    for side, change in {"base": 0.0, "tuned": 0.3}.items():
        stored, meant = fp8_experts(change=change)
        paths[side] = files.write_checkpoint(tmp_path / side, stored, config=config)
        paths[f"{side}-meant"] = files.write_checkpoint(
            tmp_path / f"{side}-meant", meant, config=DEEPSEEK
        )
    options = {"rank": 6, "dtype": "fp32", "moe_layout": layout}
    found = extract(paths["base"], paths["tuned"], **options).report
    wanted = extract(paths["base-meant"], paths["tuned-meant"], **options).report
    assert len(found.modules) == (2 if layout == "peft" else 3 * EXPERTS)
    for ours, theirs in zip(found.modules, wanted.modules, strict=True):
        assert ours.name == theirs.name
        assert ours.delta_norm == pytest.approx(theirs.delta_norm, rel=1e-6)
        assert ours.relative_error == pytest.approx(theirs.relative_error, rel=1e-4)
        # Rounding in fp8 is far coarser than in what it means in fp32.
        assert ours.rounding_floor is not None
        assert theirs.rounding_floor is not None
        assert ours.rounding_floor > 1e3 * theirs.rounding_floor


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda t: t.pop(f"{BLOCK}.1.up_proj.weight"), FormatError, r"experts\.1\.up_proj"),
        (
            lambda t: [t.pop(f"{BLOCK}.2.{k}_proj.weight") for k in ("gate", "up", "down")],
            FormatError,
            "2 experts, expected 3, as config.json says",
        ),
        (
            lambda t: t.update({f"{BLOCK}.1.up_proj.weight": np.ones((UNITS, 5), np.float32)}),
            FormatError,
            r"up_proj.*64 x 5 for up of expert 1.*expected 64 x 96",
        ),
    ],
)
def test_experts_that_are_not_all_there(
    tmp_path: Path, change: Any, kind: type[Exception], message: str
) -> None:
    _, meant = fp8_experts()
    base = files.write_checkpoint(tmp_path / "base", meant, config=DEEPSEEK)
    change(meant)
    tuned = files.write_checkpoint(tmp_path / "tuned", meant, config=DEEPSEEK)
    for sides in ((base, tuned), (tuned, base)):
        with pytest.raises(kind, match=message):
            extract(*sides, tmp_path / "out", rank=2)
    assert not (tmp_path / "out").exists()


def test_another_number_of_experts(tmp_path: Path) -> None:
    _, meant = fp8_experts()
    base = files.write_checkpoint(tmp_path / "base", meant, config=DEEPSEEK)
    fewer = {name: array for name, array in meant.items() if ".2." not in name}
    config = DEEPSEEK | {"n_routed_experts": EXPERTS - 1}
    tuned = files.write_checkpoint(tmp_path / "tuned", fewer, config=config)
    with pytest.raises(MismatchError, match="has 3 experts in BASE and 2 in TUNED"):
        extract(base, tuned, tmp_path / "out", rank=2)

"""Quantised checkpoints: their codes are never taken for values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest

import lora_files as files
from loragraft import extract
from loragraft.errors import FormatError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Tensors = dict[str, NDArray[Any]]

SHAPES = {
    "model.layers.0.self_attn.q_proj": (96, 160),
    "model.layers.0.mlp.up_proj": (300, 160),
    "model.layers.0.mlp.down_proj": (160, 300),
}
FP8 = ml_dtypes.float8_e4m3fn
BLOCKS = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}


def _values(seed: int = 0) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    return {
        name: (0.1 * rng.standard_normal(shape)).astype(np.float32)
        for name, shape in SHAPES.items()
    }


def _moved(values: dict[str, NDArray[np.float32]], rank: int = 3) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(7)
    return {
        name: weight
        + (
            0.02
            * rng.standard_normal((weight.shape[0], rank))
            @ rng.standard_normal((rank, weight.shape[1]))
        ).astype(np.float32)
        for name, weight in values.items()
    }


def _spread(scales: NDArray[np.float32], block: tuple[int, int], shape: tuple[int, int]) -> Any:
    return np.kron(scales, np.ones(block, np.float32))[: shape[0], : shape[1]]


def blocks_of(values: dict[str, NDArray[np.float32]]) -> tuple[Tensors, Tensors]:
    """DeepSeek's way: one scale for 128 x 128 codes. Returns what is stored and what it means."""
    stored: Tensors = {}
    meant: Tensors = {}
    for name, weight in values.items():
        grid = tuple(-(-side // 128) for side in weight.shape)
        scales = np.empty(grid, np.float32)
        for i, j in np.ndindex(*grid):
            part = weight[128 * i : 128 * (i + 1), 128 * j : 128 * (j + 1)]
            scales[i, j] = np.abs(part).max() / 448
        spread = _spread(scales, (128, 128), weight.shape)
        stored[f"{name}.weight"] = (weight / spread).astype(FP8)
        stored[f"{name}.weight_scale_inv"] = scales
        meant[f"{name}.weight"] = stored[f"{name}.weight"].astype(np.float32) * spread
    return stored, meant


def channels_of(values: dict[str, NDArray[np.float32]]) -> tuple[Tensors, Tensors]:
    """compressed-tensors' way: one bf16 scale for each row."""
    stored: Tensors = {}
    meant: Tensors = {}
    for name, weight in values.items():
        scales = (np.abs(weight).max(axis=1, keepdims=True) / 448).astype(ml_dtypes.bfloat16)
        stored[f"{name}.weight"] = (weight / scales.astype(np.float32)).astype(FP8)
        stored[f"{name}.weight_scale"] = scales
        meant[f"{name}.weight"] = stored[f"{name}.weight"].astype(np.float32) * scales.astype(
            np.float32
        )
    return stored, meant


def one_scale_of(values: dict[str, NDArray[np.float32]]) -> tuple[Tensors, Tensors]:
    """One scale for the whole tensor."""
    stored: Tensors = {}
    meant: Tensors = {}
    for name, weight in values.items():
        scale = np.float32(np.abs(weight).max() / 448)
        stored[f"{name}.weight"] = (weight / scale).astype(FP8)
        stored[f"{name}.weight_scale"] = np.array(scale)
        meant[f"{name}.weight"] = stored[f"{name}.weight"].astype(np.float32) * scale
    return stored, meant


def integers_of(values: dict[str, NDArray[np.float32]]) -> tuple[Tensors, Tensors]:
    """The 8-bit integers of bitsandbytes: value = code * SCB / 127."""
    stored: Tensors = {}
    meant: Tensors = {}
    for name, weight in values.items():
        peak = np.abs(weight).max(axis=1)
        codes = np.rint(weight * (127 / peak[:, None])).astype(np.int8)
        stored[f"{name}.weight"] = codes
        stored[f"{name}.SCB"] = peak
        stored[f"{name}.weight_format"] = np.array(0, np.uint8)
        meant[f"{name}.weight"] = codes * (peak[:, None] / np.float32(127))
    return stored, meant


STORAGES = {
    "blocks": blocks_of,
    "channels": channels_of,
    "one scale": one_scale_of,
    "bitsandbytes": integers_of,
}


def _product(adapter: Any, name: str) -> NDArray[np.float64]:
    factors = adapter.factors[name]
    return factors.lora_B.astype(np.float64) @ factors.lora_A.astype(np.float64)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("side", ["base", "tuned", "both"])
def test_the_same_as_of_what_it_means(tmp_path: Path, storage: str, side: str) -> None:
    """Extracting from codes gives what extracting from their values gives."""
    values = {"base": _values(), "tuned": _moved(_values())}
    quantise = STORAGES[storage]
    config = files.CONFIG | (BLOCKS if storage == "blocks" else {})
    paths = {}
    for name, weights in values.items():
        plain = {f"{module}.weight": weight for module, weight in weights.items()}
        stored, meant = quantise(weights) if side in {name, "both"} else (plain, plain)
        for kind, tensors in (("stored", stored), ("meant", meant)):
            directory = tmp_path / f"{name}-{kind}"
            paths[name, kind] = files.write_checkpoint(directory, tensors, config=config)
    given = extract(paths["base", "stored"], paths["tuned", "stored"], rank=8, dtype="fp32")
    wanted = extract(paths["base", "meant"], paths["tuned", "meant"], rank=8, dtype="fp32")
    assert set(given.factors) == set(SHAPES)
    for ours, theirs in zip(given.report.modules, wanted.report.modules, strict=True):
        assert ours.delta_norm == pytest.approx(theirs.delta_norm, rel=1e-6)
        assert ours.relative_error == pytest.approx(theirs.relative_error, rel=1e-4)
        left, right = _product(given, ours.name), _product(wanted, ours.name)
        # Eight triplets of a spectrum that is flat after the third: only their energy is known.
        assert np.linalg.norm(left) == pytest.approx(np.linalg.norm(right), rel=1e-4)
    outcomes = {row.name: row.outcome for row in given.report.tensors}
    scales = [name for name in outcomes if name.endswith(("scale", "scale_inv", "SCB"))]
    assert len(scales) == 3
    assert all(outcomes[name] == "adapted" for name in scales)


def test_equal_codes_are_unchanged(tmp_path: Path) -> None:
    stored, _ = blocks_of(_values())
    other = dict(stored)
    name = "model.layers.0.mlp.up_proj.weight_scale_inv"
    other[name] = stored[name] * np.float32(1.5)
    base = files.write_checkpoint(tmp_path / "base", stored, config=files.CONFIG | BLOCKS)
    tuned = files.write_checkpoint(tmp_path / "tuned", other, config=files.CONFIG | BLOCKS)
    found = extract(base, tuned, rank=4)
    assert [module.name for module in found.report.modules] == ["model.layers.0.mlp.up_proj"]
    unchanged = [row.name for row in found.report.tensors if row.outcome == "unchanged"]
    assert len(unchanged) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.layers.0.mlp.up_proj.weight_scale_inv"), "without scales"),
        (
            lambda t: t.update(
                {"model.layers.0.mlp.up_proj.weight_scale_inv": np.ones((2, 2), np.float32)}
            ),
            r"up_proj.weight_scale_inv.* has shape \[2, 2\], which does not fit.*\[300, 160\]",
        ),
        (
            lambda t: t.update(
                {"model.layers.0.mlp.up_proj.weight_scale_inv": np.ones((3, 2), np.int64)}
            ),
            "is I64, expected scales in one of",
        ),
        (
            lambda t: t.update({"model.layers.0.mlp.up_proj.qweight": np.ones((3, 2), np.int32)}),
            "stored as GPTQ or AWQ, which is not read; give the checkpoint in bf16",
        ),
        (
            lambda t: t.update(
                {"model.layers.0.mlp.up_proj.weight.absmax": np.ones(3, np.float32)}
            ),
            "stored as bitsandbytes 4-bit, which is not read",
        ),
    ],
)
def test_scales_that_do_not_fit(tmp_path: Path, change: Any, message: str) -> None:
    stored, meant = blocks_of(_values())
    base = files.write_checkpoint(tmp_path / "base", meant)
    change(stored)
    tuned = files.write_checkpoint(tmp_path / "tuned", stored, config=files.CONFIG | BLOCKS)
    with pytest.raises(FormatError, match=message):
        extract(base, tuned, tmp_path / "out", rank=4)
    assert not (tmp_path / "out").exists()


def test_codes_that_are_not_a_number(tmp_path: Path) -> None:
    stored, meant = blocks_of(_values())
    codes = stored["model.layers.0.mlp.up_proj.weight"].view(np.uint8)
    codes[17, 5] = 0x7F
    base = files.write_checkpoint(tmp_path / "base", meant)
    tuned = files.write_checkpoint(tmp_path / "tuned", stored, config=files.CONFIG | BLOCKS)
    with pytest.raises(Exception, match=r"up_proj.*NaN at \[17, 5\] in .*tuned"):
        extract(base, tuned, tmp_path / "out", rank=4)

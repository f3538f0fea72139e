"""Quantised weights whose scales, blocks or configs lie."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from hostile import toy
from hostile.case import CHECKPOINT, EXTRACT, LOOK, Case

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_KIND: Final = "quantised"
_WEIGHT: Final = f"{toy.Q0}.weight"
_SHAPE: Final = [toy.ROWS, toy.COLUMNS]
_SOME: Final = LOOK + EXTRACT + CHECKPOINT[3:6]
_EXPERTS: Final = "model.layers.0.mlp.experts"


def _tensors(changes: toy.Tensors, config: object, directory: Path) -> None:
    found = {**toy.tensors(1), **changes}
    toy.write_checkpoint(directory, found, config)


def _codes(dtype: str = "F8_E4M3") -> toy.Tensor:
    return toy.zeros(dtype, _SHAPE, b"\x38")


def _config(**quantisation: object) -> dict[str, Any]:
    return {**toy.CONFIG, "quantization_config": {"quant_method": "fp8", **quantisation}}


def cases() -> Iterator[Case]:
    """Yield the cases."""
    for shape in ([0], [0, 0], [8, 0], [0, 12], [7], [9, 1], [2, 2], [8, 12, 1], [3, 5], [1, 12]):
        changes = {_WEIGHT: _codes(), f"{_WEIGHT}_scale_inv": toy.zeros("F32", shape)}
        make = partial(_tensors, changes, _config())
        yield Case(_KIND, f"scales of shape {shape}", make, _SOME)
    for dtype in ("I32", "F64", "U8", "F4"):
        changes = {_WEIGHT: _codes(), f"{_WEIGHT}_scale_inv": toy.zeros(dtype, [8, 1])}
        yield Case(_KIND, f"scales in {dtype}", partial(_tensors, changes, _config()), _SOME)
    bare = {_WEIGHT: _codes()}
    yield Case(_KIND, "codes without scales", partial(_tensors, bare, _config()), _SOME)
    blocks: tuple[Any, ...] = (
        None,
        7,
        [],
        [4],
        [4, 0],
        [0, 0],
        [-4, 4],
        [4.0, 4],
        ["4", "4"],
        [True, True],
        [10**400, 1],
        [4, 4, 4],
        {"rows": 4},
        "4,4",
        [5, 5],
    )
    for value in blocks:  # fmt: skip
        scales = toy.zeros("F32", [3, 4], b"\x3f")
        changes = {_WEIGHT: _codes(), f"{_WEIGHT}_scale_inv": scales}
        make = partial(_tensors, changes, _config(weight_block_size=value))
        yield Case(_KIND, f"weight_block_size {str(value)[:20]}", make, _SOME)
    for value in (None, 7, "fp8", [], [{}], {"quant_method": 7}, {"bits": "many"}):
        config = {**toy.CONFIG, "quantization_config": value}
        make = partial(_tensors, {}, config)
        yield Case(_KIND, f"quantization_config {value} (legal)", make, LOOK + EXTRACT, (0,))
    yield from _refused()
    yield from _microscaled()


def _refused() -> Iterator[Case]:
    """Formats that are known and not read, each by the tensor that gives it away."""
    ends = (".qweight", ".weight_packed", ".weight.absmax", ".weight_zero_point", ".codebooks")
    for end in (*ends, ".weight_scale_2", ".weight_global_scale", ".hqq_scale", ".scale_weight"):
        make = partial(_tensors, {f"{toy.Q0}{end}": toy.zeros("U8", [4])}, toy.CONFIG)
        yield Case(_KIND, f"a tensor {end}", make, _SOME, says="not read")


def _microscaled() -> Iterator[Case]:
    gpt = {"model_type": "gpt_oss", "architectures": ["GptOssForCausalLM"]}
    name = f"{_EXPERTS}.gate_up_proj"
    good = toy.zeros("U8", [2, 8, 1, 16])
    variants: dict[str, toy.Tensors] = {
        "no scales": {f"{name}_blocks": good},
        "scales of other experts": {f"{name}_blocks": good, f"{name}_scales": _u8([3, 8, 1])},
        "scales in F32": {f"{name}_blocks": good, f"{name}_scales": toy.zeros("F32", [2, 8, 1])},
        "blocks of 15 bytes": {
            f"{name}_blocks": _u8([2, 8, 1, 15]),
            f"{name}_scales": _u8([2, 8, 1]),
        },
        "no experts": {f"{name}_blocks": _u8([0, 8, 1, 16]), f"{name}_scales": _u8([0, 8, 1])},
        "no blocks": {f"{name}_blocks": _u8([2, 8, 0, 16]), f"{name}_scales": _u8([2, 8, 0])},
        "no down": {f"{name}_blocks": good, f"{name}_scales": _u8([2, 8, 1])},
    }
    for what, changes in variants.items():
        make = partial(_tensors, changes, gpt)
        yield Case(_KIND, f"MXFP4 with {what}", make, LOOK + EXTRACT)
    stacked = {
        f"{name}": toy.zeros("F8_E4M3", [2, 8, 12]),
        f"{name}_scale_inv": toy.zeros("F32", [3, 1, 1]),
    }
    yield Case(_KIND, "stacked codes with other scales", partial(_tensors, stacked, gpt), _SOME)


def _u8(shape: list[int]) -> toy.Tensor:
    return toy.zeros("U8", shape)

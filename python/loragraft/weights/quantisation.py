"""Quantised tensors: which of a checkpoint's tensors are codes, and what gives them their values.

Layouts that are read: 8-bit floats and integers with one scale per tensor, row or block
(``weight_scale_inv`` of DeepSeek and Qwen, ``weight_scale`` of compressed-tensors and FBGEMM,
``SCB`` of bitsandbytes) and MXFP4 (``_blocks`` and ``_scales`` of gpt-oss). All others are refused
by name: codes are never taken for values.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from loragraft.errors import FormatError
from loragraft.number_formats import CODE_DTYPES, SCALE_DTYPES
from loragraft.weights.source import Microscaled, Plain, Scaled, matrix_of, slices_of
from loragraft.weights.stored_weight import StoredWeight
from loragraft.wording import quoted, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from loragraft.checkpoint import Checkpoint
    from loragraft.tensor_entry import TensorEntry

#: Ends of the names of scales, and the factor that goes with them.
_SCALES: Final = (("_scale_inv", 1.0), ("_scale", 1.0), (".SCB", 1.0 / 127.0))
_MICROSCALED: Final = 32
_BLOCK: Final = 128
#: A tensor that only one format has -> the format. Its codes cannot be read.
_REFUSED: Final = (
    (".qweight", "GPTQ or AWQ"),
    (".weight_packed", "compressed-tensors packed integers or NVFP4"),
    (".weight.absmax", "bitsandbytes 4-bit"),
    (".weight_zero_point", "compressed-tensors with zero points"),
    (".weight_scale_2", "NVFP4 (ModelOpt)"),
    (".weight_global_scale", "NVFP4"),
    (".hqq_scale", "HQQ"),
    (".scale_weight", "scaled fp8 with scale_weight"),
    (".codebooks", "AQLM"),
)


def find_quantised(checkpoint: Checkpoint) -> dict[str, StoredWeight]:
    """Return the weights that are stored as codes, by the name that plain ones would have.

    Raises:
        FormatError: Codes without scales, scales of the wrong shape or dtype, or a format that
            is not read.
    """
    _refuse(checkpoint)
    found = dict(_each(checkpoint))
    dtypes = {weight.dtype for weight in found.values()}
    for name, entry in checkpoint.tensors.items():
        bare = name.endswith(".weight") and len(entry.shape) == 2 and name not in found
        if bare and entry.dtype in dtypes:
            raise _without_scales(entry, "others of the same format have theirs")
    return found


def _each(checkpoint: Checkpoint) -> Iterator[tuple[str, StoredWeight]]:
    tensors = checkpoint.tensors
    for name, entry in tensors.items():
        if name.endswith("_blocks") and entry.dtype == "U8" and len(entry.shape) == 4:
            yield name.removesuffix("_blocks"), _microscaled(entry, tensors)
        elif entry.dtype in CODE_DTYPES and len(entry.shape) in {2, 3}:
            scales = _scales(entry, tensors)
            if scales is not None:
                yield name, _scaled(checkpoint, entry, *scales)
            elif entry.dtype != "U8" and _quantisation(checkpoint):
                raise _without_scales(entry, "config.json says that the model is quantised")


def _without_scales(codes: TensorEntry, why: str) -> FormatError:
    return FormatError(
        f"{shown(codes.path)}: tensor {quoted(codes.name)} is {codes.dtype} without scales:"
        f" expected {quoted(codes.name + '_scale_inv')} or {quoted(codes.name + '_scale')} beside"
        f" it, for {why}; fetch the checkpoint again"
    )


def _quantisation(checkpoint: Checkpoint) -> Mapping[str, Any]:
    found = (checkpoint.config or {}).get("quantization_config")
    return found if isinstance(found, dict) else {}


def _refuse(checkpoint: Checkpoint) -> None:
    for name, entry in checkpoint.tensors.items():
        for end, what in _REFUSED:
            if name.endswith(end):
                raise FormatError(
                    f"{shown(entry.path)}: tensor {quoted(name)} is stored as {what}, which is not"
                    " read; give the checkpoint in bf16, fp16, fp32, fp8 or MXFP4"
                )


def _scales(
    codes: TensorEntry, tensors: Mapping[str, TensorEntry]
) -> tuple[TensorEntry, float] | None:
    stem = codes.name.removesuffix(".weight")
    for end, factor in _SCALES:
        found = tensors.get((stem if end.startswith(".") else codes.name) + end)
        if found is not None:
            return found, factor
    return None


def _scaled(
    checkpoint: Checkpoint, codes: TensorEntry, scales: TensorEntry, factor: float
) -> StoredWeight:
    if scales.dtype not in SCALE_DTYPES:
        raise FormatError(
            f"{shown(scales.path)}: tensor {quoted(scales.name)} is {scales.dtype}, expected scales"
            f" in one of {', '.join(SCALE_DTYPES)}"
        )
    stacked = len(codes.shape) == 3
    parts = slices_of(codes) if stacked else (matrix_of(codes),)
    matrices = tuple(
        _one_scaled(checkpoint, part, scales, (i, len(parts)), factor)
        for i, part in enumerate(parts)
    )
    return StoredWeight(codes.name, codes.dtype, codes.shape, matrices, (codes.name, scales.name))


def _one_scaled(
    checkpoint: Checkpoint,
    codes: Plain,
    scales: TensorEntry,
    place: tuple[int, int],
    factor: float,
) -> Scaled:
    """Give one matrix of codes its scales; `place` is (number, of how many) in a stack."""
    number, count = place
    shape = scales.shape
    if count > 1 and shape[:1] == (count,):
        shape = shape[1:]
    elif count > 1 and math.prod(shape) != 1:
        raise _misfit(codes, scales, "one scale, or scales for every expert")
    else:
        number = 0
    size = math.prod(shape)
    down, across = _grid(codes, scales, shape, checkpoint)
    values = Plain(scales, down, across, number * size, across, 1)
    block = _block(codes, (down, across), _quantisation(checkpoint))
    if block is None:
        raise _misfit(codes, scales, f"blocks of {_BLOCK} x {_BLOCK}, or what config.json says")
    return Scaled(codes, values, block, factor)


def _grid(
    codes: Plain, scales: TensorEntry, shape: tuple[int, ...], checkpoint: Checkpoint
) -> tuple[int, int]:
    """Return how many scales there are down and across."""
    size = math.prod(shape)
    if size == 1:
        return 1, 1
    if shape in {(codes.rows,), (codes.rows, 1)}:
        return codes.rows, 1
    if len(shape) == 2:
        return shape[0], shape[1]
    raise _misfit(codes, scales, f"[1], [{codes.rows}, 1] or a matrix of blocks")


def _block(
    codes: Plain, grid: tuple[int, int], config: Mapping[str, Any]
) -> tuple[int, int] | None:
    """Return rows and columns of a block, None where the scales do not fit any known."""
    sides = (codes.rows, codes.columns)
    if grid == (1, 1):
        return sides
    if grid == (codes.rows, 1):
        return 1, codes.columns
    for block in (_configured(config), (_BLOCK, _BLOCK)):
        if block is not None and grid == (-(-sides[0] // block[0]), -(-sides[1] // block[1])):
            return block
    return _even(sides, grid)


def _configured(config: Mapping[str, Any]) -> tuple[int, int] | None:
    size = config.get("weight_block_size")
    if isinstance(size, list) and len(size) == 2 and all(type(n) is int and n > 0 for n in size):
        return size[0], size[1]
    return None


def _even(sides: tuple[int, int], grid: tuple[int, int]) -> tuple[int, int] | None:
    """Return blocks that divide the matrix evenly; one row to a block says so by its count."""
    if 0 in grid or any(side % count for side, count in zip(sides, grid, strict=True)):
        return None
    return (sides[0] // grid[0], sides[1] // grid[1]) if grid[0] == sides[0] else None


def _misfit(codes: Plain, scales: TensorEntry, expected: str) -> FormatError:
    return FormatError(
        f"{shown(scales.path)}: tensor {quoted(scales.name)} has shape {list(scales.shape)}, which"
        f" does not fit {quoted(codes.entry.name)} of shape {list(codes.entry.shape)}: expected"
        f" {expected}"
    )


def _microscaled(blocks: TensorEntry, tensors: Mapping[str, TensorEntry]) -> StoredWeight:
    name = blocks.name.removesuffix("_blocks")
    scales = tensors.get(f"{name}_scales")
    if scales is None:
        raise FormatError(
            f"{shown(blocks.path)}: tensor {quoted(blocks.name)} has no {quoted(name + '_scales')}"
            " beside it; fetch the checkpoint again"
        )
    experts, rows, count, width = blocks.shape
    if scales.dtype != "U8" or scales.shape != (experts, rows, count) or width != 16:
        raise FormatError(
            f"{shown(scales.path)}: tensor {quoted(scales.name)} is {scales.dtype} of shape"
            f" {list(scales.shape)}, expected U8 of {list(blocks.shape[:3])}, the MXFP4 scales of"
            f" {quoted(blocks.name)} with 16 bytes a block"
        )
    columns = count * _MICROSCALED
    matrices = tuple(
        Microscaled(blocks, scales, rows, columns, first_row=rows * i) for i in range(experts)
    )
    return StoredWeight(
        name,
        "MXFP4",
        (experts, rows, columns),
        matrices,
        (blocks.name, scales.name),
        out_in=True,
    )

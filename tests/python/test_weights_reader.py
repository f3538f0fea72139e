"""The reader of sources, against hand-made matrices and torch's own small formats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from loragraft.checkpoint import open_checkpoint
from loragraft.errors import FormatError
from loragraft.tensor_reader import TensorReader
from loragraft.weights import reader as weights_reader
from loragraft.weights.codes import FP4, TABLES
from loragraft.weights.pieces import pieces
from loragraft.weights.reader import rows, stored_rows, weight_dtype
from loragraft.weights.source import (
    Interleaved,
    Microscaled,
    Plain,
    Scaled,
    Stacked,
    matrix_of,
    slices_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from loragraft.tensor_entry import TensorEntry
    from loragraft.weights.source import Source

    Array = np.ndarray[Any, Any]


def entries(tmp_path: Path, tensors: Mapping[str, torch.Tensor]) -> dict[str, TensorEntry]:
    save_file(dict(tensors), tmp_path / "model.safetensors")
    return dict(open_checkpoint(tmp_path / "model.safetensors").tensors)


def every_range(source: Source, expected: Array) -> None:
    """Read a matrix in all ranges of rows."""
    assert (source.rows, source.columns) == expected.shape
    with TensorReader() as reader:
        for start in range(source.rows + 1):
            for stop in range(start, source.rows + 1):
                found = rows(reader, source, start, stop)
                assert found.dtype == np.float32
                assert found.flags.c_contiguous
                np.testing.assert_array_equal(found, expected[start:stop])


@pytest.mark.parametrize("most", [None, 40, 1])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_strides(
    tmp_path: Path, dtype: torch.dtype, most: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slices, columns, every second row, every third column, and one element far from the next."""
    if most is not None:
        monkeypatch.setattr(weights_reader, "_MOST", most)
    weight = torch.randn(3, 6, 8).to(dtype)
    entry = entries(tmp_path, {"w": weight})["w"]
    values = weight.float().numpy()
    for i, source in enumerate(slices_of(entry)):
        every_range(source, values[i])
        every_range(source.transposed(), values[i].T)
        every_range(source.rows_from(1, 2), values[i][1:3])
        every_range(source.rows_from(1, 3, 2), values[i][1::2])
        every_range(source.transposed().rows_from(1, 4, 2), values[i].T[1::2])
    flat = values.ravel()
    every_range(Plain(entry, 4, 3, 5, 8, 3), flat[5:][np.arange(4)[:, None] * 8 + np.arange(3) * 3])
    every_range(Plain(entry, 2, 2, 0, 100, 40), flat[[[0, 40], [100, 140]]])
    every_range(Plain(entry, 1, 1, 143, 1, 1), flat[None, 143:])


def test_rows_beyond_the_matrix_or_the_tensor(tmp_path: Path) -> None:
    entry = entries(tmp_path, {"w": torch.ones(4, 5)})["w"]
    with TensorReader() as reader:
        with pytest.raises(ValueError, match="rows 2 to 5 of a matrix of 4"):
            rows(reader, matrix_of(entry), 2, 5)
        with pytest.raises(ValueError, match="numbers 1 to 20"):
            rows(reader, Plain(entry, 4, 5, 1, 5, 1), 0, 4)


def test_dtypes_without_numbers_are_refused(tmp_path: Path) -> None:
    entry = entries(tmp_path, {"w": torch.ones(4, 5, dtype=torch.int64)})["w"]
    with TensorReader() as reader, pytest.raises(FormatError, match="I64 cannot be computed with"):
        rows(reader, matrix_of(entry), 0, 4)


def test_stacked_and_interleaved(tmp_path: Path) -> None:
    parts = {name: torch.randn(3, 4) for name in "abcd"}
    found = entries(tmp_path, parts)
    a, b, c, d = (matrix_of(found[name]) for name in "abcd")
    va, vb, vc, vd = (parts[name].numpy() for name in "abcd")
    every_range(Stacked((a, b)), np.vstack([va, vb]))
    turns = np.stack([va, vb], 1).reshape(6, 4)
    every_range(Interleaved((a, b)), turns)
    both = Stacked((Interleaved((a, b)), c, Interleaved((d, c))))
    every_range(both, np.vstack([turns, vc, np.stack([vd, vc], 1).reshape(6, 4)]))
    nested = Interleaved((Stacked((a, b)), Interleaved((c, d))))
    inner = np.stack([vc, vd], 1).reshape(6, 4)
    every_range(nested, np.stack([np.vstack([va, vb]), inner], 1).reshape(12, 4))


def test_pieces_have_every_row_once(tmp_path: Path) -> None:
    found = entries(tmp_path, {name: torch.ones(3, 4) for name in "abc"})
    a, b, c = (matrix_of(found[name]) for name in "abc")
    source = Stacked((Interleaved((a, b)), c))
    assert sorted(row for piece in pieces(source) for row in piece.rows) == list(range(9))
    assert [piece.rows for piece in pieces(source)] == [
        range(0, 6, 2),
        range(1, 7, 2),
        range(6, 9),
    ]
    second = list(pieces(source))[1]
    assert second.within(2, 5) == range(1, 2)
    assert second.slots(range(1, 2), 2) == slice(1, 3, 2)
    assert not second.within(6, 9)


def test_stored_rows_keep_their_bits(tmp_path: Path) -> None:
    weight = torch.randn(4, 5).to(torch.bfloat16)
    found = entries(tmp_path, {"w": weight, "v": weight.clone(), "x": torch.ones(4, 5)})
    w, v, x = (matrix_of(found[name]) for name in "wvx")
    bits = weight.view(torch.int16).numpy().view(np.uint16)
    assert weight_dtype(Stacked((w, v))) == "BF16"
    assert weight_dtype(Stacked((w, x))) is None
    with TensorReader() as reader:
        np.testing.assert_array_equal(
            stored_rows(reader, Stacked((w, v)), 2, 6), np.vstack([bits, bits])[2:6]
        )
        np.testing.assert_array_equal(stored_rows(reader, w.transposed(), 1, 3), bits.T[1:3])
        with pytest.raises(ValueError, match="not stored as weights of one dtype"):
            stored_rows(reader, Stacked((w, x)), 0, 1)


@pytest.mark.parametrize(
    ("code", "dtype"),
    [
        ("F8_E4M3", torch.float8_e4m3fn),
        ("F8_E5M2", torch.float8_e5m2),
        ("F8_E8M0", torch.float8_e8m0fnu),
    ],
)
def test_every_code_of_the_small_floats(code: str, dtype: torch.dtype) -> None:
    expected = torch.arange(256, dtype=torch.uint8).view(dtype).float().numpy()
    np.testing.assert_array_equal(TABLES[code], expected)
    signs = np.signbit(TABLES[code])
    np.testing.assert_array_equal(signs, np.signbit(expected))


@pytest.mark.parametrize(
    ("codes", "scales"),
    [
        (torch.float8_e4m3fn, torch.float32),
        (torch.float8_e4m3fn, torch.bfloat16),
        (torch.float8_e5m2, torch.float16),
        (torch.float8_e4m3fn, torch.float8_e8m0fnu),
        (torch.int8, torch.float32),
        (torch.uint8, torch.float32),
    ],
)
@pytest.mark.parametrize("block", [(2, 3), (4, 8), (1, 10), (7, 10), (3, 4)])
def test_scaled(
    tmp_path: Path, codes: torch.dtype, scales: torch.dtype, block: tuple[int, int]
) -> None:
    """Blocks that divide the matrix and blocks that stand out at its ends; a row, all of it."""
    generator = torch.Generator().manual_seed(1)
    bits = torch.randint(0, 120, (7, 10), generator=generator, dtype=torch.uint8)
    grid = (-(-7 // block[0]), -(-10 // block[1]))
    factors = torch.rand(grid, generator=generator).add(0.5).to(scales)
    found = entries(tmp_path, {"w": bits.view(codes), "s": factors})
    source = Scaled(matrix_of(found["w"]), matrix_of(found["s"]), block, 1.0 / 127.0)
    spread = np.kron(factors.double().numpy(), np.ones(block))[:7, :10]
    expected = (bits.view(codes).double().numpy() * spread / 127.0).astype(np.float32)
    with TensorReader() as reader:
        np.testing.assert_allclose(rows(reader, source, 0, 7), expected, rtol=2.0**-23)
        np.testing.assert_array_equal(rows(reader, source, 2, 6), rows(reader, source, 0, 7)[2:6])
        np.testing.assert_array_equal(
            rows(reader, source.transposed(), 0, 10), rows(reader, source, 0, 7).T
        )


def test_scales_without_a_factor_are_rounded_once(tmp_path: Path) -> None:
    codes = torch.randn(5, 6).to(torch.float8_e4m3fn)
    scales = torch.rand(5, 1)
    found = entries(tmp_path, {"w": codes, "s": scales})
    every_range(
        Scaled(matrix_of(found["w"]), matrix_of(found["s"]), (1, 6)),
        (codes.double() * scales.double()).float().numpy(),
    )


def test_bare_small_floats_are_their_values(tmp_path: Path) -> None:
    codes = torch.randn(5, 6).to(torch.float8_e5m2)
    every_range(matrix_of(entries(tmp_path, {"w": codes})["w"]), codes.float().numpy())


def test_microscaled_equals_transformers(tmp_path: Path) -> None:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    experts, out, into = 2, 6, 64
    generator = torch.Generator().manual_seed(2)
    blocks = torch.randint(
        0, 256, (experts, out, into // 32, 16), generator=generator, dtype=torch.uint8
    )
    scales = torch.randint(
        110, 140, (experts, out, into // 32), generator=generator, dtype=torch.uint8
    )
    found = entries(tmp_path, {"b": blocks, "s": scales})
    # What transformers gives is [E, in, out].
    dense = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32).transpose(1, 2).numpy()
    for expert in range(experts):
        source = Microscaled(found["b"], found["s"], out, into, first_row=expert * out)
        every_range(source, dense[expert])
        every_range(source.rows_from(1, 3, 2), dense[expert][1::2])


def test_microscaled_by_hand(tmp_path: Path) -> None:
    """The low half of a byte comes first: 0x21 is 0.5, then 1; the last code of a scale is NaN."""
    blocks = torch.zeros(1, 2, 1, 16, dtype=torch.uint8)
    blocks[0, 0, 0, 0], blocks[0, 0, 0, 15] = 0x21, 0xF0
    found = entries(tmp_path, {"b": blocks, "s": torch.tensor([[[128], [255]]]).to(torch.uint8)})
    source = Microscaled(found["b"], found["s"], 2, 32)
    with TensorReader() as reader:
        values = rows(reader, source, 0, 2)
    assert values[0, :3].tolist() == [1.0, 2.0, 0.0]
    assert values[0, 30:].tolist() == [0.0, -12.0]
    assert np.isnan(values[1]).all()
    assert FP4.tolist()[:8] == [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]

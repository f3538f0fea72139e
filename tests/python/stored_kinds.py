"""Matrices stored in every way the native core knows, beside what NumPy says their entries are.

Run as a script it checks all of them on the ISA that LORAGRAFT_ISA names.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import ml_dtypes
import numpy as np

import native_tasks as nt
from loragraft import native

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Make = Callable[[str], native.StoredMatrix]

NUMPY: dict[str, Any] = {
    "BF16": ml_dtypes.bfloat16,
    "F16": np.float16,
    "F32": np.float32,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I8": np.int8,
    "U8": np.uint8,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
}
MANTISSA = {"BF16": 7, "F16": 10, "F32": 23, "F8_E4M3": 3, "F8_E5M2": 2}
#: Exponent of the smallest normal number; below it the spacing stays the same.
LOWEST = {"BF16": -126, "F16": -14, "F32": -126, "F8_E4M3": -6, "F8_E5M2": -14}
#: Of MXFP4, as they stand in the specification.
E2M1 = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], np.float32)
E2M1_SPACING = np.array([0.5, 0.5, 0.5, 0.5, 1.0, 1.0, 2.0, 2.0])


class Kind(NamedTuple):
    """A stored matrix: how to open it, its entries, and the spacing of what is stored there."""

    make: Make
    values: NDArray[np.float32]
    spacing: NDArray[np.float64]


class File:
    """Tensors one behind the other in a file, at odd offsets."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(b"\0")

    def add(self, array: NDArray[Any]) -> int:
        offset = self.path.stat().st_size
        with self.path.open("ab") as stream:
            stream.write(array.tobytes())
            stream.write(b"\xff" * (offset % 2))
        return offset

    def plain(
        self, array: NDArray[Any], dtype: str, rows: int, columns: int, *,
        first: int = 0, row_stride: int | None = None, col_stride: int | None = None,
    ) -> Make:  # fmt: skip
        offset = self.add(array) + first * array.itemsize
        return lambda io: native.StoredMatrix(
            native.MappedFile(str(self.path), io), offset, dtype, rows, columns,
            row_stride, col_stride,
        )  # fmt: skip


def spacing_of(values: NDArray[Any], dtype: str) -> NDArray[np.float64]:
    """Distance between the numbers of a format around the given ones; of none around zeros."""
    if dtype in ("I8", "U8"):
        return np.ones(values.shape)
    numbers = values.astype(np.float64)
    _, exponents = np.frexp(numbers)
    spacing = 2.0 ** (np.maximum(exponents - 1, LOWEST[dtype]) - MANTISSA[dtype])
    if dtype in ("BF16", "F32"):
        return np.where(numbers == 0.0, 0.0, spacing)
    return np.where(numbers == 0.0, 2.0 ** (LOWEST[dtype] - MANTISSA[dtype]), spacing)


def numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Finite numbers of a format, all of its range."""
    if dtype in ("I8", "U8"):
        return rng.integers(0, 256, shape).astype(np.uint8).view(NUMPY[dtype])
    if dtype.startswith("F8"):
        codes = rng.integers(0, 256, shape).astype(np.uint8).view(NUMPY[dtype])
        finite: NDArray[Any] = np.where(
            np.isfinite(codes.astype(np.float32)), codes, NUMPY[dtype](0.25)
        )
        return finite
    return rng.standard_normal(shape).astype(NUMPY[dtype])


def plain(file: File, rng: np.random.Generator, dtype: str, rows: int, columns: int) -> Kind:
    made = numbers(rng, (rows, columns), dtype)
    return Kind(
        file.plain(made, dtype, rows, columns), made.astype(np.float32), spacing_of(made, dtype)
    )


def strided(file: File, rng: np.random.Generator, dtype: str, how: str, m: int, n: int) -> Kind:
    """Parts of larger tensors, as NumPy's basic indexing names them."""
    whole = numbers(rng, shape_of_whole(how, m, n), dtype)
    view = part_of(whole, how)
    first = int(part_of(np.arange(whole.size).reshape(whole.shape), how)[0, 0])
    strides = [stride // whole.itemsize for stride in view.strides]
    make = file.plain(whole, dtype, m, n, first=first, row_stride=strides[0], col_stride=strides[1])
    return Kind(make, view.astype(np.float32), spacing_of(view, dtype))


def shape_of_whole(how: str, m: int, n: int) -> tuple[int, ...]:
    return {
        "transposed": (n, m),
        "right half": (m, 2 * n),
        "odd rows": (2 * m, n),
        "odd columns": (m, 2 * n),
        "odd rows transposed": (n, 2 * m),
        "an expert transposed": (3, n, m),
        "far apart": (m, n, 100),
    }[how]


def part_of(whole: NDArray[Any], how: str) -> NDArray[Any]:
    everything, odd = slice(None), slice(1, None, 2)
    index: dict[str, Any] = {
        "right half": (everything, slice(whole.shape[1] // 2, None)),
        "odd rows": odd,
        "odd columns": (everything, odd),
        "odd rows transposed": (everything, odd),
        "an expert transposed": 1,
        "far apart": (everything, everything, 7),
    }
    part: NDArray[Any] = whole[index.get(how, ...)]
    return part.T if how.endswith("transposed") else part


STRIDED = (
    "transposed", "right half", "odd rows", "odd columns", "odd rows transposed",
    "an expert transposed", "far apart",
)  # fmt: skip


def scaled(
    file: File, rng: np.random.Generator, dtype: str, scale_dtype: str, m: int, n: int,
    block: tuple[int, int], *, factor: float = 1.0, transposed: bool = False,
) -> Kind:  # fmt: skip
    codes = numbers(rng, (m, n), dtype)
    shape = (-(-m // block[0]), -(-n // block[1]))
    if scale_dtype == "F8_E8M0":
        scales = rng.integers(110, 130, shape).astype(np.uint8).view(NUMPY[scale_dtype])
    else:
        # Scales may well be negative, and are where a format divides by its end.
        scales = (0.01 * rng.standard_normal(shape)).astype(NUMPY[scale_dtype])
    if transposed:
        make_codes = file.plain(codes.T.copy(), dtype, m, n, row_stride=1, col_stride=m)
        make_scales = file.plain(
            scales.T.copy(), scale_dtype, *shape, row_stride=1, col_stride=shape[0]
        )
    else:
        make_codes = file.plain(codes, dtype, m, n)
        make_scales = file.plain(scales, scale_dtype, *shape)
    wide = scales.astype(np.float32).astype(np.float64) * factor
    spread = np.repeat(np.repeat(wide.astype(np.float32), block[0], 0), block[1], 1)[:m, :n]
    return Kind(
        lambda io: native.StoredMatrix.scaled(make_codes(io), make_scales(io), *block, factor),
        codes.astype(np.float32) * spread,
        spacing_of(codes, dtype) * np.abs(spread.astype(np.float64)),
    )


def microscaled(
    file: File, rng: np.random.Generator, m: int, n: int, *, first: int = 0, step: int = 1
) -> Kind:
    rows = first + step * m
    codes = rng.integers(0, 16, (rows, n)).astype(np.uint8)
    scales = rng.integers(100, 140, (rows, n // 32)).astype(np.uint8)
    blocks_at = file.add(codes[:, ::2] | codes[:, 1::2] << 4)
    scales_at = file.add(scales)
    wide = np.repeat(2.0 ** (scales.astype(np.float64) - 127), 32, 1)
    values = (np.where(codes & 8, -1.0, 1.0) * E2M1[codes & 7] * wide).astype(np.float32)
    spacing = E2M1_SPACING[codes & 7] * wide

    def make(io: str) -> native.StoredMatrix:
        opened = native.MappedFile(str(file.path), io)
        return native.StoredMatrix.microscaled(
            opened, blocks_at, opened, scales_at, m, n, first, step
        )

    chosen = slice(first, first + step * m, step)
    return Kind(make, values[chosen], spacing[chosen])


def q8(
    file: File, rng: np.random.Generator, m: int, n: int, *, first: int = 0, step: int = 1
) -> Kind:
    rows = first + step * m
    codes = rng.integers(-128, 128, (rows, n // 32, 32)).astype(np.int8)
    scales = (0.01 * rng.standard_normal((rows, n // 32, 1))).astype(np.float16)
    blocks = np.concatenate([scales.view(np.int8), codes], 2)
    offset = file.add(blocks)
    values = (codes * scales.astype(np.float32)).reshape(rows, n)
    spacing = np.repeat(np.abs(scales[:, :, 0].astype(np.float64)), 32, 1)
    chosen = slice(first, first + step * m, step)
    return Kind(
        lambda io: native.StoredMatrix.q8(
            native.MappedFile(str(file.path), io), offset, m, n, first, step
        ),
        values[chosen],
        spacing[chosen],
    )


def stacked(*parts: Kind) -> Kind:
    return Kind(
        lambda io: native.StoredMatrix.stacked([part.make(io) for part in parts]),
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.spacing for part in parts]),
    )


def interleaved(*parts: Kind) -> Kind:
    def woven(arrays: list[NDArray[Any]]) -> NDArray[Any]:
        return np.stack(arrays, 1).reshape(-1, arrays[0].shape[1])

    return Kind(
        lambda io: native.StoredMatrix.interleaved([part.make(io) for part in parts]),
        woven([part.values for part in parts]),
        woven([part.spacing for part in parts]),
    )


def every_kind(path: Path, m: int, n: int, seed: int = 0) -> dict[str, Kind]:
    """All kinds, of m rows and n columns where the format does not say otherwise."""
    file = File(path)
    rng = np.random.default_rng((seed, m, n))
    kinds = {f"plain {d}": plain(file, rng, d, m, n) for d in MANTISSA}
    for how in STRIDED:
        for dtype in ("BF16", "F32", "F8_E4M3"):
            kinds[f"{how} {dtype}"] = strided(file, rng, dtype, how, m, n)
    blocks = {
        "tiles": (16, 24),
        "rows": (1, n),
        "columns": (m, 1),
        "whole": (m, n),
        "runs": (1, 32),
    }
    for name, block in blocks.items():
        for dtype, scale in (("F8_E4M3", "F32"), ("F8_E5M2", "F16"), ("I8", "BF16")):
            kinds[f"scaled {name} {dtype}"] = scaled(file, rng, dtype, scale, m, n, block)
    tiles = blocks["tiles"]
    kinds["powers of two"] = scaled(file, rng, "F8_E4M3", "F8_E8M0", m, n, (1, 32))
    kinds["factor"] = scaled(file, rng, "I8", "F32", m, n, (1, n), factor=1 / 127)
    kinds["unsigned"] = scaled(file, rng, "U8", "F32", m, n, tiles, factor=-0.3)
    kinds["scaled BF16"] = scaled(file, rng, "BF16", "F32", m, n, tiles)
    kinds["scaled F16"] = scaled(file, rng, "F16", "F32", m, n, tiles)
    kinds["scaled F32"] = scaled(file, rng, "F32", "F32", m, n, tiles)
    kinds["scaled transposed"] = scaled(file, rng, "F8_E4M3", "F32", m, n, tiles, transposed=True)
    wide = 32 * -(-n // 32)
    kinds["MXFP4"] = microscaled(file, rng, m, wide)
    kinds["MXFP4 odd rows"] = microscaled(file, rng, m, wide, first=1, step=2)
    kinds["MXFP4 expert"] = microscaled(file, rng, m, wide, first=2 * m)
    kinds["Q8_0"] = q8(file, rng, m, wide)
    kinds["Q8_0 odd rows"] = q8(file, rng, m, wide, first=1, step=2)
    kinds["Q8_0 expert"] = q8(file, rng, m, wide, first=2 * m)
    half = plain(file, rng, "BF16", m // 2, n)
    rest = plain(file, rng, "BF16", m - m // 2, n)
    kinds["stacked"] = stacked(half, rest)
    kinds["stacked of one"] = stacked(kinds["plain BF16"])
    kinds["stacked of all sorts"] = stacked(
        half, plain(file, rng, "F32", 3, n), strided(file, rng, "F16", "transposed", 5, n),
        scaled(file, rng, "F8_E4M3", "F32", m - m // 2, n, (7, 9)),
    )  # fmt: skip
    halves = [strided(file, rng, "BF16", how, m, n) for how in ("transposed", "right half")]
    kinds["interleaved"] = interleaved(*halves)
    kinds["interleaved threes"] = interleaved(*halves, plain(file, rng, "F32", m, n))
    kinds["interleaved stacks"] = interleaved(kinds["stacked"], kinds["scaled tiles I8"])
    kinds["stacked interleaves"] = stacked(kinds["interleaved"], half)
    return kinds


def reference(path: Path, values: NDArray[np.float32]) -> Make:
    """The same entries as a plain fp32 matrix."""
    path.write_bytes(np.ascontiguousarray(values).tobytes())
    rows, columns = values.shape
    return lambda io: native.StoredMatrix(native.MappedFile(str(path), io), 0, "F32", rows, columns)


def task(
    base: native.StoredMatrix, tuned: native.StoredMatrix, rank: int = 0, name: str = "w"
) -> native.ModuleTask:
    return native.ModuleTask(name, base, tuned, rank, 0, 1.0)


def check_entries(kind: Kind, path: Path, io: str = "auto") -> None:
    """Every entry is what NumPy says, bit for bit, and the sums over them are right."""
    same = reference(path, kind.values)(io)
    other = np.random.default_rng(1).standard_normal(kind.values.shape).astype(np.float32)
    base = reference(path.with_suffix(".base"), other)(io)
    stored = kind.make(io)
    assert (stored.rows, stored.cols) == kind.values.shape
    pairs = ((stored, same), (same, stored), (base, stored), (stored, base))
    one, two, forth, back = nt.run([task(*pair) for pair in pairs], threads=1)
    assert one.unchanged
    assert two.unchanged
    size = float((kind.values.astype(np.float64) ** 2).sum())
    change = float(((kind.values - other).astype(np.float64) ** 2).sum())
    floor = float((kind.spacing**2).sum()) / 12.0
    # Sums in double precision on both sides.
    np.testing.assert_allclose(forth.delta_square, change, rtol=1e-12)
    np.testing.assert_allclose(back.delta_square, change, rtol=1e-12)
    np.testing.assert_allclose(back.base_square, size, rtol=1e-12)
    np.testing.assert_allclose(forth.rounding_square, floor, rtol=1e-12)


if __name__ == "__main__":
    directory = Path(sys.argv[1])
    for each, found in every_kind(directory / "all", 37, 83).items():
        try:
            check_entries(found, directory / "one")
        except AssertionError as error:
            raise AssertionError(each) from error
    print(native.isa())

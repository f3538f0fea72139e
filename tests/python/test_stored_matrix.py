"""`native.StoredMatrix`: every way in which checkpoints hold a matrix, against NumPy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import native_tasks as nt
import stored_kinds as kinds
from loragraft import native
from loragraft.errors import FormatError, NonFiniteError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

IO_MODES = ("mmap", "pread")
#: Sides below and above a cache line of any format, and ragged blocks; a row; a column.
SHAPES = ((37, 83), (1, 5), (3, 1), (64, 64), (130, 301))


@pytest.mark.parametrize("io", IO_MODES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_entries_and_sums(tmp_path: Path, shape: tuple[int, int], io: str) -> None:
    for name, kind in kinds.every_kind(tmp_path / "all", *shape).items():
        try:
            kinds.check_entries(kind, tmp_path / "one", io)
        except AssertionError as error:
            raise AssertionError(name) from error


@pytest.mark.parametrize("isa", native.available_isas())
def test_entries_and_sums_of_every_isa(tmp_path: Path, isa: str) -> None:
    """The choice is made once in a process, hence one for each."""
    paths = [Path(native.__file__).parents[1], *map(Path, sys.path)]
    environment = {
        **os.environ, "LORAGRAFT_ISA": isa, "PYTHONPATH": os.pathsep.join(map(str, paths)),
    }  # fmt: skip
    command = [sys.executable, kinds.__file__, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{isa}\n"), done.stderr


@pytest.mark.parametrize("isa", native.available_isas())
@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "I8", "U8"])
def test_every_code(dtype: str, isa: str) -> None:
    codes = np.arange(256, dtype=np.uint8).view(kinds.NUMPY[dtype])
    expected = codes.astype(np.float32)
    for length in (256, *range(1, 40)):
        found = native.widen(codes[-length:].tobytes(), dtype, isa)
        np.testing.assert_array_equal(found, expected[-length:])
        nan = np.isnan(found)
        np.testing.assert_array_equal(np.signbit(found)[~nan], np.signbit(expected[-length:])[~nan])


def test_bytes_depend_on_neither_threads_nor_io(tmp_path: Path) -> None:
    """Sides of 256 and more are factored in bytes, smaller ones in floats."""
    for shape in ((300, 420), (60, 210)):
        found = kinds.every_kind(tmp_path / "all", *shape)
        names = [n for n in found if found[n].values.shape[0] >= shape[0] // 2]
        bases = {}
        for name in names:
            path = tmp_path / f"base of {name}"
            noise = np.random.default_rng(1).standard_normal(found[name].values.shape)
            bases[name] = kinds.reference(path, noise.astype(np.float32))
        seen = set()
        for io in IO_MODES:
            opened = [kinds.task(bases[n](io), found[n].make(io), 4) for n in names]
            for threads in (1, 2, 3):
                seen.add(tuple(nt.fields(result) for result in nt.run(opened, threads=threads)))
        assert len(seen) == 1


@pytest.mark.parametrize("arithmetic", ["auto", "floats"])
def test_factors_are_those_of_the_entries(tmp_path: Path, arithmetic: str) -> None:
    """Rows that are gathered or decoded give what the same numbers give as fp32 in place."""
    found = kinds.every_kind(tmp_path / "all", 310, 290)
    tasks = []
    for name, kind in found.items():
        noise = np.random.default_rng(2).standard_normal(kind.values.shape).astype(np.float32)
        base = kinds.reference(tmp_path / f"base of {name}", noise)("auto")
        same = kinds.reference(tmp_path / f"same as {name}", kind.values)("auto")
        tasks += [kinds.task(base, kind.make("auto"), 3), kinds.task(base, same, 3)]
    results = nt.run(tasks, arithmetic=arithmetic)
    floor = nt.FIELDS.index("rounding_square")
    for name, one, other in zip(found, results[::2], results[1::2], strict=True):
        parts = [nt.fields(r)[:floor] + nt.fields(r)[floor + 1 :] for r in (one, other)]
        assert parts[0] == parts[1], name


@pytest.mark.parametrize("io", IO_MODES)
def test_equal_bytes_are_no_change(tmp_path: Path, io: str) -> None:
    """Even where the numbers are none: nothing was computed."""
    one = kinds.every_kind(tmp_path / "one", 40, 96)
    other = kinds.every_kind(tmp_path / "other", 40, 96)
    moved = kinds.every_kind(tmp_path / "moved", 40, 96, seed=1)
    for name, kind in one.items():
        same, changed = nt.run(
            [kinds.task(kind.make(io), pairs[name].make(io)) for pairs in (other, moved)]
        )
        assert (same.unchanged, same.base_square) == (True, 0.0), name
        assert not changed.unchanged, name


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
@pytest.mark.parametrize("how", kinds.STRIDED)
def test_one_changed_number(tmp_path: Path, how: str, dtype: str) -> None:
    """The comparison sees all numbers of a part, and none of the others around it."""
    m, n = 41, 36
    made = [
        kinds.strided(kinds.File(tmp_path / side), np.random.default_rng(3), dtype, how, m, n)
        for side in "ab"
    ]
    shape = kinds.shape_of_whole(how, m, n)
    numbers = np.arange(np.prod(shape)).reshape(shape)
    own = set(kinds.part_of(numbers, how).ravel().tolist())
    whole = (tmp_path / "b").read_bytes()
    width = 2 if dtype == "BF16" else 4
    for number in {0, numbers.size - 1, min(own), max(own), *range(5, numbers.size, 997)}:
        at = 1 + number * width
        other = bytearray(whole)
        other[at] ^= 0x01
        (tmp_path / "b").write_bytes(other)
        (result,) = nt.run([kinds.task(made[0].make("auto"), made[1].make("auto"))])
        assert result.unchanged == (number not in own)


@pytest.mark.parametrize("io", IO_MODES)
def test_equal_entries_stored_in_other_ways(tmp_path: Path, io: str) -> None:
    """A resaved checkpoint may hold the same numbers elsewhere, or row by row instead."""
    file = kinds.File(tmp_path / "file")
    w = kinds.numbers(np.random.default_rng(0), (70, 66), "BF16")
    halves = [file.plain(part, "BF16", 35, 66) for part in (w[:35], w[35:])]
    turns = [file.plain(part.copy(), "BF16", 35, 66) for part in (w[::2], w[1::2])]
    whole = [
        file.plain(w, "BF16", 70, 66),
        file.plain(w.T.copy(), "BF16", 70, 66, row_stride=1, col_stride=70),
        file.plain(w.astype(np.float32), "F32", 70, 66),
    ]
    stored = [make(io) for make in whole]
    stored.append(native.StoredMatrix.stacked([make(io) for make in halves]))
    stored.append(native.StoredMatrix.interleaved([make(io) for make in turns]))
    for a in stored:
        for b in stored:
            assert nt.run([kinds.task(a, b)])[0].unchanged


def _with_bad_number(file: kinds.File, how: str) -> Callable[[str], native.StoredMatrix]:
    """A matrix of 300 x 320 with NaN at [270, 33]."""
    rng = np.random.default_rng(0)
    m, n = 300, 320
    codes = rng.integers(0, 120, (m, n)).astype(np.uint8)
    scales = np.ones((m, n // 32), np.float32)
    if how == "scale":
        scales[270:, 1] = np.nan
        scales[270:, :1] = 2.0
    elif how not in ("microscale", "BF16"):
        codes[270, 33] = 0x7F
    if how == "microscale":
        powers = np.full((m, n // 32), 127, np.uint8)
        powers[270, 1] = 255
        blocks_at, scales_at = file.add(codes[:, ::2]), file.add(powers)

        def make(io: str) -> native.StoredMatrix:
            opened = native.MappedFile(str(file.path), io)
            return native.StoredMatrix.microscaled(opened, blocks_at, opened, scales_at, m, n)

        return make
    if how == "BF16":
        weights = np.ones((n, m), kinds.NUMPY["BF16"])
        weights[33, 270] = np.nan
        return file.plain(weights, "BF16", m, n, row_stride=1, col_stride=m)
    dtype = "F8_E5M2" if how == "e5m2" else "F8_E4M3"
    if how == "e5m2":
        codes[270, 33] = 0xFE
    make_codes = file.plain(codes.view(kinds.NUMPY[dtype]), dtype, m, n)
    make_scales = file.plain(scales, "F32", m, n // 32)
    if how == "plain":
        return make_codes
    return lambda io: native.StoredMatrix.scaled(make_codes(io), make_scales(io), 1, 32)


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("io", IO_MODES)
@pytest.mark.parametrize("how", ["code", "e5m2", "scale", "microscale", "plain", "BF16"])
def test_what_is_no_number_is_located(tmp_path: Path, how: str, io: str, rank: int) -> None:
    file = kinds.File(tmp_path / "codes")
    bad = _with_bad_number(file, how)(io)
    good = kinds.reference(tmp_path / "good", np.ones((300, 320), np.float32))(io)
    column = 32 if how in ("scale", "microscale") else 33
    for pair in ((bad, good), (good, bad)):
        with pytest.raises(NonFiniteError) as caught:
            nt.run([kinds.task(*pair, rank, "experts.gate_up_proj")])
        message = str(caught.value)
        assert f"'experts.gate_up_proj': NaN at [270, {column}] in {file.path};" in message


def test_the_file_of_the_part_is_named(tmp_path: Path) -> None:
    files = [kinds.File(tmp_path / name) for name in ("first", "second", "third")]
    arrays = [np.ones((20, 30), np.float32) for _ in files]
    arrays[1][4, 7] = np.inf
    parts = [f.plain(a, "F32", 20, 30)("auto") for f, a in zip(files, arrays, strict=True)]
    good = kinds.reference(tmp_path / "good", np.ones((60, 30), np.float32))("auto")
    for stored, row in (
        (native.StoredMatrix.stacked(parts), 24),
        (native.StoredMatrix.interleaved(parts), 13),
    ):
        with pytest.raises(NonFiniteError, match=rf"Inf at \[{row}, 7\] in .*second"):
            nt.run([kinds.task(good, stored)])
    codes = files[0].plain(np.ones((4, 4), np.int8), "I8", 4, 4)("auto")
    scales = files[2].plain(np.full((1, 1), np.nan, np.float32), "F32", 1, 1)("auto")
    small = kinds.reference(tmp_path / "small", np.ones((4, 4), np.float32))("auto")
    with pytest.raises(NonFiniteError, match=r"NaN at \[0, 0\] in .*third"):
        nt.run([kinds.task(small, native.StoredMatrix.scaled(codes, scales, 4, 4))])


@pytest.mark.parametrize("io", IO_MODES)
def test_a_truncated_file_is_an_error_not_a_signal(tmp_path: Path, io: str) -> None:
    path = tmp_path / "all"
    for name, kind in kinds.every_kind(path, 140, 160).items():
        whole = path.read_bytes()
        good = kinds.reference(tmp_path / "good", kind.values)(io)
        stored = kind.make(io)
        os.truncate(path, 100)
        with pytest.raises(FormatError, match="all"):
            nt.run([kinds.task(stored, good, 4, name)])
        path.write_bytes(whole)


def test_what_no_matrix_can_be_made_of(tmp_path: Path) -> None:
    stored = native.StoredMatrix
    path = tmp_path / "file"
    path.write_bytes(bytes(1000))
    file = native.MappedFile(str(path))
    huge = 2**63
    for strides in ((huge, 1), (1, huge), (huge, huge), (2**62, 2**62)):
        with pytest.raises(UsageError, match="overflow"):
            stored(file, 0, "F32", 3, 3, *strides)
    for strides in ((0, 1), (3, 0)):
        with pytest.raises(UsageError, match="stride of 0"):
            stored(file, 0, "F32", 3, 3, *strides)
    # The last number ends at the file's last byte, or one further on.
    stored(file, 4, "F32", 3, 3, 122, 2)
    for offset, strides in ((5, (122, 2)), (0, (123, 2)), (0, (1, 124)), (1000, (3, 1))):
        with pytest.raises(FormatError, match="beyond the file's end"):
            stored(file, offset, "F32", 3, 3, *strides)
    for dtype in ("F64", "F4_E2M1", "f32", ""):
        with pytest.raises(UsageError, match=f"dtype {dtype}: expected one of BF16, F16, F32, F8"):
            stored(file, 0, dtype, 1, 1)
    with pytest.raises(TypeError):
        stored(file, 0, "F32", 3, 3, -1, 1)


def test_what_no_stack_can_be_made_of(tmp_path: Path) -> None:
    stored = native.StoredMatrix
    path = tmp_path / "file"
    path.write_bytes(bytes(1000))
    file = native.MappedFile(str(path))
    a, wide = stored(file, 0, "F32", 3, 4), stored(file, 0, "F32", 3, 5)
    tall = stored(file, 0, "BF16", 4, 4)
    nothing: Any = None
    for make in (stored.stacked, stored.interleaved):
        with pytest.raises(UsageError, match="a stack of no matrices"):
            make([])
        with pytest.raises(FormatError, match="matrices of 4 and 5 columns cannot be stacked"):
            make([a, wide])
        with pytest.raises(UsageError, match="I8 are no weights without a scale"):
            make([stored(file, 0, "I8", 3, 4)])
        with pytest.raises(UsageError, match="one is None"):
            make([a, nothing])
    for call in (
        lambda: stored(nothing, 0, "F32", 1, 1),
        lambda: stored.scaled(a, nothing, 1, 1),
        lambda: stored.microscaled(file, 0, nothing, 0, 1, 32),
        lambda: kinds.task(nothing, a),
    ):
        with pytest.raises(TypeError):
            call()
    with pytest.raises(FormatError, match="matrices of 3 and 4 rows cannot be interleaved"):
        stored.interleaved([a, tall])
    assert stored.stacked([a, tall]).rows == 7
    for dtype in ("I8", "U8", "F8_E8M0"):
        with pytest.raises(UsageError, match=f"{dtype} are no weights without a scale"):
            nt.run([kinds.task(a, stored(file, 0, dtype, 3, 4))])


def test_what_no_codes_and_scales_can_be_made_of(tmp_path: Path) -> None:
    stored = native.StoredMatrix
    path = tmp_path / "file"
    path.write_bytes(bytes(1000))
    file = native.MappedFile(str(path))
    codes = stored(file, 0, "F8_E4M3", 5, 7)
    for shape in ((3, 3), (2, 4), (4, 3), (2, 2), (1, 1)):
        scales = stored(file, 0, "F32", *shape)
        message = rf"scales of shape \[{shape[0]}, {shape[1]}\] .* expected \[2, 3\]"
        with pytest.raises(FormatError, match=message):
            stored.scaled(codes, scales, 3, 3, 1.0)
    scales = stored(file, 0, "F32", 2, 3)
    for block in ((0, 3), (3, 0)):
        with pytest.raises(UsageError, match="expected blocks of 1 x 1 or more"):
            stored.scaled(codes, scales, *block, 1.0)
    for factor in (np.nan, np.inf):
        with pytest.raises(UsageError, match="expected blocks of 1 x 1 or more, and a number"):
            stored.scaled(codes, scales, 3, 3, factor)
    for code, scale in (("I8", "I8"), ("F8_E4M3", "F8_E5M2"), ("F8_E8M0", "F32")):
        with pytest.raises(UsageError, match=f"codes of dtype {code} with scales of dtype {scale}"):
            stored.scaled(stored(file, 0, code, 5, 7), stored(file, 0, scale, 2, 3), 3, 3, 1.0)
    with pytest.raises(UsageError, match="expected matrices of single tensors"):
        stored.scaled(stored.stacked([codes]), scales, 3, 3, 1.0)
    with pytest.raises(FormatError, match="40 columns of MXFP4: expected a multiple of 32"):
        stored.microscaled(file, 0, file, 0, 2, 40)
    with pytest.raises(FormatError, match="beyond the file's end"):
        stored.microscaled(file, 0, file, 900, 10, 320, 1)
    with pytest.raises(FormatError, match="beyond the file's end"):
        stored.microscaled(file, 0, file, 0, 2, 64, 0, 2000)
    for first, step in ((2**62, 1), (0, 2**63), (2**63, 2**63)):
        with pytest.raises(UsageError, match="overflow"):
            stored.microscaled(file, 0, file, 0, 2, 64, first, step)


def test_a_file_that_changed_is_an_error(tmp_path: Path) -> None:
    codes, scales = (kinds.File(tmp_path / name) for name in ("codes", "scales"))
    make_codes = codes.plain(np.ones((40, 50), np.int8), "I8", 40, 50)
    make_scales = scales.plain(np.ones((40, 1), np.float32), "F32", 40, 1)
    good = kinds.reference(tmp_path / "good", np.zeros((40, 50), np.float32))("auto")
    for path in (codes.path, scales.path):
        stored = native.StoredMatrix.scaled(make_codes("auto"), make_scales("auto"), 1, 50)
        status = path.stat()
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))
        with pytest.raises(FormatError, match=f"{path.name}.*changed"):
            nt.run([kinds.task(stored, good)])


_ONE_COLUMN = """
import sys
import numpy as np
from loragraft import native
path, io = sys.argv[1:]
file = native.MappedFile(path, io)
sides = [native.StoredMatrix(file, offset, "F32", 3, 1, 2, 0) for offset in (0, 4)]
task = native.ModuleTask("x", *sides, 0, 0, 1.0)
batch = native.Batch([task], 8, None, "auto", 1, "auto", None, False)
print(batch.next(60.0)[1].delta_square)
"""


@pytest.mark.parametrize("io", IO_MODES)
def test_one_column_with_a_stride_of_0(tmp_path: Path, io: str) -> None:
    """In a process of its own: it was ended by a division."""
    path = tmp_path / "numbers"
    np.arange(8, dtype=np.float32).tofile(path)
    command = [sys.executable, "-c", _ONE_COLUMN, str(path), io]
    paths = os.pathsep.join(map(str, [Path(native.__file__).parents[1], *sys.path]))
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "3.0\n"), done.stderr

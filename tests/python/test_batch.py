"""`native.Batch` over files of the official writer, against float64 NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import lora_files as files
import native_tasks as nt
from loragraft import native
from loragraft.errors import NonFiniteError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

U32 = 2.0**-24
DTYPES = ("BF16", "F16", "F32")
IO_MODES = ("mmap", "pread")


@pytest.mark.parametrize("shape", [(130, 70), (37, 2321)], ids=str)
@pytest.mark.parametrize("tuned_dtype", DTYPES)
@pytest.mark.parametrize("base_dtype", DTYPES)
def test_figures_against_numpy(
    tmp_path: Path, base_dtype: str, tuned_dtype: str, shape: tuple[int, int]
) -> None:
    base, tuned = nt.pair(shape, base_dtype, tuned_dtype)
    rank = 4
    task = nt.task(*nt.write_pair(tmp_path, base, tuned), "w", rank)
    (result,) = nt.run([task])
    delta = nt.delta(base, tuned)
    # Sums in double precision on both sides.
    assert result.delta_square == pytest.approx((delta**2).sum(), rel=1e-12)
    assert result.base_square == pytest.approx((base.astype(np.float64) ** 2).sum(), rel=1e-12)
    assert result.rounding_square == pytest.approx(
        nt.rounding_square(tuned, tuned_dtype), rel=1e-12
    )
    assert not result.unchanged
    assert result.rank == rank
    assert result.seconds > 0.0
    norm = float(np.linalg.norm(delta))
    b, a = nt.factors(result, shape)
    # The kernel subtracts rank + 1 products from each entry in single precision.
    slack = U32 * (rank + 2) * 2 * norm
    written = float(np.linalg.norm(delta - b @ a))
    assert abs(result.residual_square**0.5 - written) <= slack
    exact = np.linalg.svd(delta, compute_uv=False)
    optimum = float(np.linalg.norm(exact[rank:]))
    assert optimum - slack <= result.optimal_square**0.5 <= 1.001 * optimum + slack
    # fp16 factors: each entry is off by 2^-12 of itself at most, in both factors.
    assert result.dtype == "F16"
    assert written <= 1.001 * optimum + 2 * 2.0**-11 * norm


def test_factors_are_balanced_and_carry_the_scaling(tmp_path: Path) -> None:
    shape = (130, 70)
    paths = nt.write_pair(tmp_path, *nt.pair(shape))
    for scaling in (1.0, 2.0, 0.125, 3.7):
        (result,) = nt.run([nt.task(*paths, "w", 4, scaling=scaling)], dtype="F32")
        b, a = nt.factors(result, shape)
        values = np.array(result.singular_values)
        root = np.sqrt(values / scaling)
        # Rounding of the factors, and of U and Vt before them: l = 16 terms, twice rounded.
        np.testing.assert_allclose(np.linalg.norm(b, axis=0), root, rtol=U32 * 20)
        np.testing.assert_allclose(np.linalg.norm(a, axis=1), root, rtol=U32 * 20)
        delta = nt.delta(*nt.pair(shape))
        written = float(np.linalg.norm(delta - scaling * (b @ a)))
        norm = float(np.linalg.norm(delta))
        assert abs(result.residual_square**0.5 - written) <= U32 * 7 * 2 * norm
        assert written <= 1.001 * float(np.linalg.norm(np.linalg.svd(delta)[1][4:])) + U32 * norm


def test_full_rank_and_a_change_of_low_rank_leave_nothing(tmp_path: Path) -> None:
    """The energy left out is summed directly where the difference of sums would cancel."""
    rng = np.random.default_rng(1)
    base = np.zeros((90, 60), np.float32)
    tuned = (rng.standard_normal((90, 2)) @ rng.standard_normal((2, 60))).astype(np.float32)
    paths = nt.write_pair(tmp_path, base, tuned)
    norm_square = float((tuned.astype(np.float64) ** 2).sum())
    for rank in (2, 8, 60):
        (result,) = nt.run([nt.task(*paths, "w", rank)], dtype="F32")
        # The stated rounding of the decomposition (test_truncated_svd), squared: about (45 u)^2.
        assert 0.0 < result.optimal_square <= (45 * U32) ** 2 * norm_square
        assert result.residual_square <= (45 * U32) ** 2 * norm_square
        assert result.exact == (rank == 60)


def test_passes(tmp_path: Path) -> None:
    """A power iteration is two products; one pass over a narrow matrix serves both."""
    very_wide = nt.write_pair(tmp_path, *nt.pair((40, 12_000)))
    for iterations in (0, 1, 5):
        (result,) = nt.run([nt.task(*very_wide, "w", 4)], power_iterations=iterations)
        assert result.passes == 2 * iterations + 2
    noise = np.random.default_rng(0).standard_normal((300, 200)).astype(np.float32)
    well_conditioned = nt.write_pair(tmp_path, np.zeros_like(noise), noise)
    for iterations in (0, 1, 5):
        (result,) = nt.run([nt.task(*well_conditioned, "w", 4)], power_iterations=iterations)
        assert result.passes == iterations + 1
    paths = nt.write_pair(tmp_path, *nt.pair((300, 200)))
    for iterations in (0, 1, 5):
        (result,) = nt.run([nt.task(*paths, "w", 4)], power_iterations=iterations)
        assert iterations + 1 <= result.passes <= 2 * iterations + 2
    wide, narrow = (
        nt.run([nt.task(*paths, "w", 4)], oversampling=oversampling)[0] for oversampling in (60, 0)
    )
    assert wide.passes <= narrow.passes
    # A sketch as wide as the matrix, or absurdly wider, is the full decomposition.
    for oversampling in (196, 2**64 - 10):
        (full,) = nt.run([nt.task(*paths, "w", 4)], oversampling=oversampling)
        assert full.exact


def test_the_key_changes_the_sketch_only(tmp_path: Path) -> None:
    paths = nt.write_pair(tmp_path, *nt.pair((300, 200)))
    one, two, again = nt.run([nt.task(*paths, "w", 4, key=key) for key in (1, 2, 1)])
    assert nt.fields(one) == nt.fields(again)
    assert one.lora_a != two.lora_a
    # Both within 0.2 % of the least energy left out.
    assert one.optimal_square == pytest.approx(two.optimal_square, rel=2.001e-3)


@pytest.mark.parametrize("io", IO_MODES)
def test_unchanged_tensors(tmp_path: Path, io: str) -> None:
    base, tuned = nt.pair((80, 50))
    paths = (
        nt.write(tmp_path / "a", {"same": base, "zero": base * 0, "value": base, "moved": base}),
        nt.write(
            tmp_path / "b",
            {"same": base, "zero": -base * 0, "value": base.astype(np.float32), "moved": tuned},
        ),
    )
    names = ("same", "zero", "value", "moved")
    results = nt.run([nt.task(*paths, name, io=io) for name in names])
    # Equal values in other bytes (a signed zero, a wider dtype) are no change either.
    assert [r.unchanged for r in results] == [True, True, True, False]
    for result in results[:3]:
        assert (result.rank, result.lora_a, result.lora_b) == (0, b"", b"")
        assert result.delta_square == 0.0
    measured = nt.run([nt.task(*paths, name, 0, io=io) for name in names])
    assert [r.unchanged for r in measured] == [True, True, True, False]
    assert measured[3].delta_square == results[3].delta_square
    assert measured[3].base_square == results[3].base_square
    assert measured[3].rounding_square == results[3].rounding_square
    assert measured[3].rank == 0


@pytest.mark.parametrize("rank", [4, 0])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["base", "tuned"])
def test_non_finite_weights_are_located(tmp_path: Path, side: str, value: float, rank: int) -> None:
    base, tuned = nt.pair((2300, 70))
    (base if side == "base" else tuned)[2205, 61] = value
    (base if side == "base" else tuned)[2206, 3] = np.nan
    paths = nt.write_pair(tmp_path, base, tuned, "model.layers.3.q_proj.weight")
    with pytest.raises(NonFiniteError) as caught:
        nt.run([nt.task(*paths, "model.layers.3.q_proj.weight", rank)])
    message = str(caught.value)
    kind = "NaN" if np.isnan(value) else "Inf"
    assert "tensor 'model.layers.3.q_proj.weight'" in message
    assert f"{kind} at [2205, 61] in {paths[side == 'tuned']}" in message


def test_a_difference_beyond_float32(tmp_path: Path) -> None:
    base = np.full((70, 40), -3e38, np.float32)
    paths = nt.write_pair(tmp_path, base, -base)
    with pytest.raises(
        NonFiniteError,
        match="tensor 'w': the difference of the two sides, or its factors, overflow",
    ):
        nt.run([nt.task(*paths, "w")])


def test_bytes_depend_on_neither_threads_nor_io(tmp_path: Path) -> None:
    """Many small matrices, and one so large that threads share it."""
    shapes = {"big": (3000, 700), "wide": (70, 2500), "small": (20, 30), "tall": (2400, 40)}
    made = {name: nt.pair(shape) for name, shape in shapes.items()}
    paths = (
        nt.write(tmp_path / "base", {name: base for name, (base, _) in made.items()}),
        nt.write(tmp_path / "tuned", {name: tuned for name, (_, tuned) in made.items()}),
    )
    seen = set()
    for io in IO_MODES:
        for threads in (1, 2, 3, 7):
            tasks = [nt.task(*paths, name, 8, key=i, io=io) for i, name in enumerate(shapes)]
            seen.add(tuple(nt.fields(result) for result in nt.run(tasks, threads=threads)))
    assert len(seen) == 1
    big = nt.delta(*made["big"])
    result = next(iter(seen))[0]
    assert result[1] == pytest.approx((big**2).sum(), rel=1e-12)
    # Two groups of partial sums: the optimum of every half step depends on both.
    exact = np.linalg.svd(big, compute_uv=False)
    optimum = float(np.linalg.norm(exact[8:]))
    assert optimum * (1 - 1e-5) <= result[5] ** 0.5 <= 1.001 * optimum


def test_results_do_not_depend_on_the_company(tmp_path: Path) -> None:
    paths = nt.write_pair(tmp_path, *nt.pair((200, 100)))
    (alone,) = nt.run([nt.task(*paths, "w", 4, key=3)])
    crowd = nt.run([nt.task(*paths, "w", 4, key=key) for key in (9, 3, 8, 3)], threads=4)
    assert nt.fields(crowd[1]) == nt.fields(crowd[3]) == nt.fields(alone)


def test_data_at_an_odd_offset(tmp_path: Path) -> None:
    """Nothing in the format aligns the data of a tensor."""
    results = []
    for shift in (0, 1, 3):
        stored = []
        for side, values in zip("bt", nt.pair((90, 61), "F32", "F32"), strict=True):
            path = tmp_path / f"{side}{shift}"
            path.write_bytes(b"\0" * shift + values.tobytes())
            stored.append(native.StoredMatrix(native.MappedFile(str(path)), shift, "F32", 90, 61))
        results.extend(nt.run([native.ModuleTask("w", stored[0], stored[1], 4, 0, 1.0)]))
    assert len({nt.fields(result) for result in results}) == 1


def scaled_pair(directory: Path, norm: float) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)
    change = rng.standard_normal((64, 3)) @ rng.standard_normal((3, 48))
    change *= norm / np.linalg.norm(change)
    return nt.write_pair(directory, np.zeros((64, 48), np.float32), change.astype(np.float32))


@pytest.mark.parametrize(
    ("norm", "dtype"),
    [(1.0, "F16"), (1e-3, "F16"), (1e3, "F16"), (1e12, "BF16"), (1e30, "BF16"), (1e-9, "BF16"),
     (1e-30, "BF16")],
)  # fmt: skip
def test_automatic_dtype_of_the_factors(tmp_path: Path, norm: float, dtype: str) -> None:
    paths = scaled_pair(tmp_path, norm)
    (result,) = nt.run([nt.task(*paths, "w", 3)])
    assert result.dtype == dtype
    b, a = nt.factors(result, (64, 48))
    tuned = np.frombuffer(paths[1].read_bytes()[-64 * 48 * 4 :], np.float32).reshape(64, 48)
    error = float(np.linalg.norm(tuned.astype(np.float64) - b @ a))
    # One rounding of each factor, each entry by half an ulp at most, and the decomposition's own.
    share = 2 * 2.0 ** -(nt.MANTISSA[dtype] + 1) + 45 * U32
    assert error <= share * norm
    assert result.residual_square**0.5 == pytest.approx(error, abs=U32 * 5 * 2 * norm)
    (wide,) = nt.run([nt.task(*paths, "w", 3)], dtype="F32")
    assert wide.dtype == "F32"
    assert wide.residual_square**0.5 <= 45 * U32 * norm


def test_fp16_that_overflows_is_refused(tmp_path: Path) -> None:
    paths = scaled_pair(tmp_path, 1e12)
    with pytest.raises(UsageError, match=r"exceed the range of fp16 \(65504\).*bf16 or fp32"):
        nt.run([nt.task(*paths, "w", 3)], dtype="F16")
    # A larger scaling makes smaller factors.
    (result,) = nt.run([nt.task(*paths, "w", 3, scaling=1e6)], dtype="F16")
    assert result.dtype == "F16"


def test_the_dtypes_of_the_tests_are_those_of_the_package() -> None:
    assert set(files.NUMPY_DTYPES) == set(DTYPES)

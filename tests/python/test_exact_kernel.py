"""The search for factors inside rounding cells, against double precision."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import exact_cases as cases
import loragraft.demo
from loragraft import native
from loragraft.demo.smollm2 import find_gguf
from loragraft.errors import NonFiniteError, UsageError
from loragraft.linalg import truncated_svd

if TYPE_CHECKING:
    from numpy.typing import NDArray

U32 = 2.0**-24
ISAS = native.available_isas()


def start_of(case: cases.Case, rank: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(A, B) of the plain truncated SVD, from which the search starts."""
    delta = case.tuned.astype(np.float32) - case.base.astype(np.float32)
    u, s, vt = np.linalg.svd(delta.astype(np.float64), full_matrices=False)
    return (
        (s[:rank, None] * vt[:rank]).astype(np.float32),
        np.ascontiguousarray(u[:, :rank], np.float32),
    )


def residual(case: cases.Case, dtype: str, b: Any, a: Any) -> tuple[Any, Any, Any]:
    """In double precision: what lies beyond the cells, whether it does, and rounding errors.

    An entry of B A has r products, is taken from the difference of both sides, and clipped: each
    step adds one rounding error of what it computes, in single precision.
    """
    low, high = cases.bounds(case, dtype, 0.9, 0.01)
    wide_low, wide_high = cases.bounds(case, dtype, 1.0, 0.01)
    entries = b.astype(np.float64) @ a.astype(np.float64)
    r = entries - np.clip(entries, low, high)
    outside = np.maximum(wide_low - entries, entries - wide_high)
    size = np.abs(b).astype(np.float64) @ np.abs(a).astype(np.float64)
    sides = np.abs(case.tuned.astype(np.float64)) + np.abs(case.base.astype(np.float64))
    return r, outside, U32 * ((a.shape[0] + 2) * size + 8 * sides)


@pytest.mark.parametrize("shape", cases.SHAPES)
@pytest.mark.parametrize(("base", "tuned"), cases.PAIRS)
def test_residual_and_gradients(
    tmp_path: Path, base: str, tuned: str, shape: tuple[int, int]
) -> None:
    case = cases.merged(shape, base, tuned)
    b, a = cases.perturbed(case)
    square, violations, left, right = native.cell_residual(
        *cases.stored_pair(tmp_path, case), a, b, tuned, stretch=0.9, slack=0.01
    )
    r, outside, error = residual(case, tuned, b, a)
    most = np.abs(r) + error
    assert abs(square - (r**2).sum()) <= (2 * most * error).sum()
    assert (outside > error).sum() <= violations <= (outside > -error).sum()
    # Sums of products: as many rounding errors as a block has steps and a sum has blocks, each of
    # no more than the sum of magnitudes.
    for got, wanted, e in (
        (left, r @ a.T, (error + 300 * U32 * most) @ np.abs(a).T),
        (right, r.T @ b, (error + 300 * U32 * most).T @ np.abs(b)),
    ):
        assert np.all(np.abs(got - wanted) <= e)


@pytest.mark.parametrize("isa", ISAS)
def test_every_isa(tmp_path: Path, isa: str) -> None:
    """All kernels agree with double precision, as in test_residual_and_gradients."""
    environment = {**os.environ, "LORAGRAFT_ISA": isa}
    script = Path(cases.__file__)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / isa)],
        env=environment, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    for name, (square, violations, left, right, exact) in json.loads(done.stdout).items():
        base, tuned, rows, cols = name.split(".")
        case = cases.merged((int(rows), int(cols)), base, tuned)
        b, a = cases.perturbed(case)
        r, outside, error = residual(case, tuned, b, a)
        most = np.abs(r) + error
        assert abs(square - (r**2).sum()) <= (2 * most * error).sum()
        assert (outside > error).sum() <= violations <= (outside > -error).sum()
        for got, wanted, e in (
            (left, r @ a.T, (error + 300 * U32 * most) @ np.abs(a).T),
            (right, r.T @ b, (error + 300 * U32 * most).T @ np.abs(b)),
        ):
            assert np.all(np.abs(np.array(got) - wanted) <= e)
        assert exact >= (1 - 1e-3) * r.size


@pytest.mark.parametrize("shape", cases.SHAPES)
@pytest.mark.parametrize(("base", "tuned"), cases.PAIRS)
def test_counting_what_rounds_back(
    tmp_path: Path, base: str, tuned: str, shape: tuple[int, int]
) -> None:
    """Sums near a cell's end may fall to either side, and no others."""
    case = cases.merged(shape, base, tuned)
    b, a = cases.perturbed(case)
    count = native.count_exact(*cases.stored_pair(tmp_path, case), a, b, tuned, threads=2)
    entries = b.astype(np.float64) @ a.astype(np.float64)
    low, high = cases.bounds(case, tuned, 1.0, 0.0)
    error = 2 * residual(case, tuned, b, a)[2]
    surely = (entries > low + error) & (entries < high - error)
    perhaps = (entries >= low - error) & (entries <= high + error)
    assert surely.sum() <= count <= perhaps.sum()


def test_signed_zeros_count(tmp_path: Path) -> None:
    zeros = np.array([[0.0, -0.0], [-0.0, 0.0]])
    kind = cases.STORED["BF16"]
    case = cases.Case(
        zeros.astype(kind), np.abs(zeros).astype(kind),
        np.zeros((2, 1), np.float32), np.zeros((1, 2), np.float32),
    )  # fmt: skip
    pair = cases.stored_pair(tmp_path, case)
    # -0 + 0 is +0.
    assert native.count_exact(*pair, case.lora_a, case.lora_b, "BF16") == 4


@pytest.mark.parametrize("change", [0.003, 0.02])
@pytest.mark.parametrize(("base", "tuned"), [("BF16", "BF16"), ("F32", "BF16"), ("F16", "F16")])
def test_the_merged_change_comes_back(tmp_path: Path, base: str, tuned: str, change: float) -> None:
    case = cases.merged((240, 200), base, tuned, change=change, zeros=0.0)
    pair = cases.stored_pair(tmp_path, case)
    a, b = start_of(case, 3)
    found = native.exact_factors(*pair, a, b, tuned, threads=2)
    assert found.end == "feasible"
    assert found.violations == found.history[-1][0] == 0
    # Cells are aimed at 0.3 % of their width from the ends, far more than single precision rounds.
    assert found.exact_count == case.base.size
    truth = case.lora_b.astype(np.float64) @ case.lora_a
    error = np.linalg.norm(found.lora_b.astype(np.float64) @ found.lora_a - truth)
    assert error < np.linalg.norm(b.astype(np.float64) @ a - truth) / 2
    np.testing.assert_allclose(
        (found.lora_b.astype(np.float64) ** 2).sum(), (found.lora_a.astype(np.float64) ** 2).sum(),
        rtol=0.2,
    )  # fmt: skip


@pytest.mark.parametrize("tuned", ["F8_E4M3", "F8_E5M2"])
def test_eight_bits(tmp_path: Path, tuned: str) -> None:
    case = cases.merged((240, 200), "BF16", tuned, change=0.3, zeros=0.0)
    pair = cases.stored_pair(tmp_path, case)
    a, b = start_of(case, 3)
    found = native.exact_factors(*pair, a, b, tuned)
    assert (found.end, found.exact_count) == ("feasible", case.base.size)


def test_zeros_among_the_weights(tmp_path: Path) -> None:
    """Where the base is zero the change is known to half a last place of its own.

    Such cells are hundreds of times smaller than the others and are reached last, if at all.
    """
    case = cases.merged((240, 200), "F32", "BF16", change=0.003, zeros=0.01)
    a, b = start_of(case, 3)
    found = native.exact_factors(*cases.stored_pair(tmp_path, case), a, b, "BF16")
    others = (case.base != 0.0).sum()
    assert found.exact_count >= 0.999 * others


def test_the_rank_decides(tmp_path: Path) -> None:
    """Below the true rank no point lies in all cells; at it, and above, one does."""
    case = cases.merged((240, 200), change=0.02, rank=5)
    pair = cases.stored_pair(tmp_path, case)
    ends = {}
    for rank in (4, 5, 7):
        a, b = start_of(case, rank)
        ends[rank] = native.exact_factors(*pair, a, b, "BF16").end
    assert ends == {4: "stalled", 5: "feasible", 7: "feasible"}


def test_a_full_change_stalls_early(tmp_path: Path) -> None:
    case = cases.merged((240, 200), change=0.02, rank=200)
    pair = cases.stored_pair(tmp_path, case)
    a, b = start_of(case, 8)
    found = native.exact_factors(*pair, a, b, "BF16")
    assert found.end == "stalled"
    assert len(found.history) <= 12


def test_a_change_rounded_before_the_sum(tmp_path: Path) -> None:
    """BF16 changes leave the cells of the sum; the widened ones hold them."""
    case = cases.merged((240, 200), "F16", "F16", change=0.02)
    change = (case.lora_b @ case.lora_a).astype(cases.STORED["BF16"]).astype(np.float32)
    tuned = (case.base.astype(np.float32) + change).astype(np.float16)
    case = cases.Case(case.base, tuned, case.lora_b, case.lora_a)
    pair = cases.stored_pair(tmp_path, case)
    outside = {
        slack: native.cell_residual(*pair, case.lora_a, case.lora_b, "F16", slack=slack)[1]
        for slack in (0.0, 2.0**-8)
    }
    assert outside[0.0] > 0.005 * tuned.size
    assert outside[2.0**-8] == 0


def test_same_bytes_for_all_threads(tmp_path: Path) -> None:
    case = cases.merged((600, 150), change=0.01)
    pair = cases.stored_pair(tmp_path, case)
    a, b = start_of(case, 3)
    results = [native.exact_factors(*pair, a, b, "BF16", threads=n) for n in (1, 2, 3)]
    for other in results[1:]:
        np.testing.assert_array_equal(other.lora_a, results[0].lora_a)
        np.testing.assert_array_equal(other.lora_b, results[0].lora_b)
        assert other.history == results[0].history


def test_factors_of_zeros(tmp_path: Path) -> None:
    """A rank beyond what is there: null triplets do no harm."""
    case = cases.merged((70, 65), change=0.02)
    pair = cases.stored_pair(tmp_path, case)
    a = np.vstack([case.lora_a, np.zeros((2, 65), np.float32)])
    b = np.hstack([case.lora_b, np.zeros((70, 2), np.float32)])
    found = native.exact_factors(*pair, a, b, "BF16")
    assert found.end == "feasible"
    zeros = native.exact_factors(*pair, 0 * a, 0 * b, "BF16", rounds=5)
    assert np.isfinite(zeros.lora_a).all()
    assert np.isfinite(zeros.lora_b).all()


@pytest.mark.parametrize("where", [0, 1])
def test_nan(tmp_path: Path, where: int) -> None:
    case = cases.merged((37, 5))
    case[where][20, 3] = np.nan
    pair = cases.stored_pair(tmp_path, case)
    with pytest.raises(NonFiniteError):
        native.exact_factors(*pair, case.lora_a, case.lora_b, "BF16")


def test_refusals(tmp_path: Path) -> None:
    case = cases.merged((37, 5))
    base, tuned = cases.stored_pair(tmp_path / "one", case)
    other, _ = cases.stored_pair(tmp_path / "two", cases.merged((5, 37)))
    a, b = case.lora_a, case.lora_b
    with pytest.raises(UsageError, match="different shapes"):
        native.exact_factors(other, tuned, a, b, "BF16")
    with pytest.raises(UsageError, match="not stored in the format named"):
        native.exact_factors(base, tuned, a, b, "F16")
    with pytest.raises(UsageError, match="not stored in the format named"):
        native.exact_factors(base, tuned, a, b, "F8_E4M3")
    with pytest.raises(UsageError, match="factors do not fit"):
        native.exact_factors(base, tuned, a[:2], b, "BF16")
    with pytest.raises(UsageError, match="factors do not fit"):
        native.count_exact(base, tuned, a, b[:-1], "BF16")


def test_codes_with_scales_are_refused(tmp_path: Path) -> None:
    """Their cells are not those of the codes."""
    case = cases.merged((37, 5), "BF16", "F8_E4M3")
    base, tuned = cases.stored_pair(tmp_path / "codes", case)
    _, scale = cases.stored_pair(tmp_path / "scale", cases.merged((1, 1)))
    scaled = native.StoredMatrix.scaled(tuned, scale, 37, 5)
    with pytest.raises(UsageError, match="not stored in the format named"):
        native.exact_factors(base, scaled, case.lora_a, case.lora_b, "F8_E4M3")


def test_truncated_svd_as_a_start(tmp_path: Path) -> None:
    """What the package itself starts from."""
    case = cases.merged((240, 200), change=0.02)
    delta = case.tuned.astype(np.float32) - case.base.astype(np.float32)
    svd = truncated_svd(delta, 3)
    pair = cases.stored_pair(tmp_path, case)
    assert native.exact_factors(*pair, svd.s[:, None] * svd.Vt, svd.U, "BF16").end == "feasible"


def test_a_direction_spent_on_noise_is_replaced(tmp_path: Path) -> None:
    """A real module, whose search rests at a saddle: one of its directions follows noise."""
    import gguf

    name, adapter = "model.layers.17.self_attn.v_proj", Path(loragraft.demo.__file__).parent
    reader = gguf.GGUFReader(find_gguf())
    packed = next(t for t in reader.tensors if t.name == "blk.17.attn_v.weight")
    base = gguf.quants.dequantize(packed.data, packed.tensor_type).astype(cases.STORED["BF16"])
    factors = load_file(adapter / "adapter" / "adapter_model.safetensors")
    b, a = (
        factors[f"base_model.model.{name}.lora_{side}.weight"].astype(np.float32) for side in "BA"
    )
    config = json.loads((adapter / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    change = b @ a * np.float32(config["lora_alpha"] / config["r"])
    tuned = (base.astype(np.float32) + change).astype(cases.STORED["BF16"])
    pair = cases.stored_pair(tmp_path, cases.Case(base, tuned, b, a))
    a, b = start_of(cases.Case(base, tuned, b, a), 24)

    def found(which: list[int]) -> native.ExactFactors:
        start = (np.ascontiguousarray(a[which]), np.ascontiguousarray(b[:, which]))
        return native.exact_factors(*pair, *start, "BF16", patience=4, threads=2)

    # Without replacing it, one or two of these starts get stuck with 7 % of the entries outside.
    for noise in range(8, 24):
        assert found([*range(7), noise]).end == "feasible"
    # Nor does a rank fit that is too small.
    assert found(list(range(7))).violations > 1000


@pytest.mark.parametrize(("off", "outside"), [(2.0**-22, 0), (2.0**-17, 1)])
def test_weights_too_small_for_single_precision(tmp_path: Path, off: float, outside: int) -> None:
    """A half cell of 2^-29 beside a change of 1: the sum of products is no better than 2^-20."""
    kind = cases.STORED["BF16"]
    one = np.ones((1, 1), np.float32)
    case = cases.Case((-one).astype(kind), (one * 2.0**-20).astype(kind), one, one)
    change = np.float32(1.0 + 2.0**-20 + off) * one
    _, violations, _, _ = native.cell_residual(
        *cases.stored_pair(tmp_path, case), change, one, "BF16"
    )
    assert violations == outside

"""Exact recovery where something is small, large, zero, or not there at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest

import exact_models as models
import lora_files as files
from loragraft import extract, verify
from loragraft.errors import NothingToAdaptError
from loragraft.extraction.exact.trials import Trials

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Array = NDArray[Any]

BF16 = ml_dtypes.bfloat16
Q, UP = "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj"


def pair(
    directory: Path,
    shapes: dict[str, tuple[int, int]],
    change: Callable[[str, Array], Array],
    *,
    base: Any = BF16,
    tuned: Any = BF16,
    edit: Callable[[Array], None] = lambda _: None,
) -> tuple[Path, Path]:
    """Both sides of a merge: weights of deviation 0.05, and what `change` makes of them."""
    rng = np.random.default_rng(3)
    before, after = {}, {}
    for name, shape in shapes.items():
        weight = 0.05 * rng.standard_normal(shape)
        edit(weight)
        stored = weight.astype(base)
        total = stored.astype(np.float32) + change(name, stored).astype(np.float32)
        before[f"{name}.weight"], after[f"{name}.weight"] = stored, total.astype(tuned)
    return (
        files.write_checkpoint(directory / "base", before),
        files.write_checkpoint(directory / "tuned", after),
    )


def lora(rank: int, size: float, seed: int = 0) -> Callable[[str, Array], Array]:
    """A change of that rank, its size in half cells of bf16 weights around 0.03."""
    rng = np.random.default_rng(seed)

    def change(_name: str, weight: Array) -> Array:
        left = rng.standard_normal((weight.shape[0], rank))
        right = rng.standard_normal((rank, weight.shape[1]))
        return np.asarray(size * 2.0**-14 * left @ right / np.sqrt(rank))

    return change


@pytest.mark.parametrize("shape", [(1, 600), (2, 512), (7, 300), (12, 700), (400, 15), (16, 256)])
@pytest.mark.parametrize("rank", ["1", "auto"])
def test_narrow_matrices(tmp_path: Path, shape: tuple[int, int], rank: str) -> None:
    """Narrower than the vectors that a stuck search is tried on; one rank too small gets stuck."""
    base, tuned = pair(tmp_path, {Q: shape}, lora(min(2, shape[0], shape[1]), 2.0))
    report = extract(base, tuned, rank=rank, exact=True).report
    (module,) = report.modules
    assert module.recovery is not None
    assert module.recovery["status"] in {"exact", "near", "plain"}


@pytest.mark.parametrize("rank", ["4", "auto"])
def test_rows_and_columns_of_zeros(tmp_path: Path, rank: str) -> None:
    """Padding and pruned weights: what has not changed at all must not change by 1e-19."""

    def edit(weight: Array) -> None:
        weight[:3] = 0.0
        weight[:, 0] = 0.0

    inner = lora(4, 4.0)

    def change(name: str, weight: Array) -> Array:
        found = inner(name, weight)
        edit(found)
        return found

    base, tuned = pair(tmp_path, {Q: (300, 160)}, change, edit=edit)
    result = extract(base, tuned, rank=rank, exact=True)
    (module,) = result.report.modules
    assert (module.rank, module.recovery and module.recovery["status"]) == (4, "exact")
    factors = result.factors[Q]
    assert not factors.lora_B[:3].any()
    assert not factors.lora_A[:, 0].any()


def test_a_share_of_all_modules_or_none(tmp_path: Path) -> None:
    """Where some modules are plain, the report does not give the others' share as that of all."""
    low, full = lora(4, 4.0), lora(160, 20.0)
    base, tuned = pair(
        tmp_path, {Q: (300, 160), UP: (300, 160)},
        lambda name, weight: (low if name == Q else full)(name, weight),
    )  # fmt: skip
    out = tmp_path / "out"
    report = extract(base, tuned, out, rank=4, exact=True).report
    assert report.extra["exact"]["modules"] == {"exact": 1, "near": 0, "plain": 1}
    assert report.summary.bit_exact is None
    assert "of these weights bit for bit" in report.summary.verdict
    found = {module.name: module.bit_exact for module in report.modules}
    checked = {module.name: module.bit_exact for module in verify(base, tuned, out).modules}
    assert found[UP] is None
    assert found[Q] == pytest.approx(checked[Q], abs=1e-4)


def test_the_same_weights_in_another_dtype_need_nothing(tmp_path: Path) -> None:
    inner = lora(4, 4.0)
    base, tuned = pair(
        tmp_path, {Q: (300, 160), UP: (300, 160)},
        lambda name, weight: inner(name, weight) * (name == Q), base=np.float32,
    )  # fmt: skip
    report = extract(base, tuned, rank="auto", exact=True).report
    assert [(module.name, module.rank) for module in report.modules] == [(Q, 4)]


@pytest.mark.parametrize(("tuned", "size"), [(BF16, 300.0), (np.float16, 600.0)])
def test_large_changes_are_not_taken_for_rounded_ones(
    tmp_path: Path, tuned: Any, size: float
) -> None:
    """Weights so small beside ΔW that single precision misses their cells prove nothing."""
    scale = size * (1.0 if tuned is BF16 else 2.0**-3)
    shapes = {Q: (576, 512), UP: (512, 576)}
    base, after = pair(tmp_path, shapes, lora(8, scale), base=tuned, tuned=tuned)
    report = extract(base, after, rank="auto", exact=True).report
    assert report.extra["exact"]["slack"] == 0.0
    assert {module.rank for module in report.modules} == {8}
    assert report.summary.bit_exact is not None
    assert report.summary.bit_exact > 0.999


def test_what_failed_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair_ = models.merge(tmp_path, rank=4)
    kept: list[bool] = []
    taken = Trials._take

    def take(self: Trials, trial: Any, matrix: int, result: Any) -> None:
        taken(self, trial, matrix, result)
        searched = self._done[trial, matrix]
        kept.append((searched.factors is not None) == (result.recovery.outside <= 0.2 * 96 * 96))

    monkeypatch.setattr(Trials, "_take", take)
    extract(pair_.base, pair_.tuned, rank="auto", max_rank=24, exact=True)
    assert kept


def test_a_light_full_fine_tune_is_given_up_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, tuned = pair(tmp_path, {Q: (576, 512)}, lora(512, 0.7))
    trials: list[int] = []
    taken = Trials._take

    def take(self: Trials, trial: Any, matrix: int, result: Any) -> None:
        trials.append(trial.rank)
        taken(self, trial, matrix, result)

    monkeypatch.setattr(Trials, "_take", take)
    report = extract(base, tuned, rank=4, exact=True).report
    assert len(trials) <= 2
    assert report.modules[0].recovery
    assert report.modules[0].recovery["status"] == "plain"
    trials.clear()
    with pytest.raises(NothingToAdaptError, match="give a rank such as 16"):
        extract(base, tuned, rank="auto", exact=True)
    # 512 * 576 weights, some half of which changed: nothing above rank 36 would tell.
    assert max(trials) <= 40
    assert len(trials) <= 10

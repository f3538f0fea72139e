"""`extract` on real model classes: what PEFT and transformers make of the adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import extraction_checks as checks
import tiny_models
from loragraft.extraction import extract
from loragraft.merging import merge
from loragraft.verification import verify

if TYPE_CHECKING:
    from pathlib import Path

    from loragraft.report.model import Report

RANK = 4
SCALE = 0.05
#: A change of the weights in the least favourable direction moves the logits this much more than
#: the planted change does, which points nowhere in particular.
AMPLIFICATION = 30.0


def _pair(tmp_path: Path, family: str, dtype: str) -> tuple[Path, Path]:
    base = tiny_models.build(family, tmp_path / "base", seed=1, dtype=dtype)
    return base, tiny_models.perturb(base, tmp_path / "tuned", rank=RANK, seed=2, scale=SCALE)


def _merged(base: Path, adapter: Path) -> dict[str, Any]:
    """PEFT's merged weights by tensor name."""
    model = checks.load_peft(base, adapter).merge_and_unload()
    return {name: value.detach().double().numpy() for name, value in model.state_dict().items()}


def _check_errors(base: Path, tuned: Path, adapter: Path, reports: list[Report]) -> None:
    """The relative error of PEFT's merged weights is the one that the reports state."""
    before = {n: t.double().numpy() for n, t in tiny_models.read_tensors(base).items()}
    after = {n: t.double().numpy() for n, t in tiny_models.read_tensors(tuned).items()}
    merged, written = _merged(base, adapter), checks.factors(adapter)
    assert {f"{name}.weight" for name in written} == {
        name for name, array in merged.items() if not np.array_equal(array, before.get(name, array))
    }
    for name, (b, a) in written.items():
        key = f"{name}.weight"
        change = checks.norm(after[key] - before[key])
        error = checks.norm(after[key] - merged[key]) / change
        # Either side's float32 product, and ΔW itself rounded to float32 once.
        tolerance = checks.product_bound(b, a) / change + checks.UNIT + 1e-10
        for report in reports:
            assert checks.module(report, name).relative_error == pytest.approx(error, abs=tolerance)


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_merged_weights_are_what_the_reports_say(tmp_path: Path, family: str, dtype: str) -> None:
    base, tuned = _pair(tmp_path, family, dtype)
    planted = {
        name
        for name, value in tiny_models.read_tensors(base).items()
        if not value.equal(tiny_models.read_tensors(tuned)[name])
    }
    for rank in (RANK, 2 * RANK):
        out = tmp_path / f"rank-{rank}"
        result = extract(base, tuned, out, rank=rank)
        truth = verify(base, tuned, out, optimum=True)
        assert {f"{name}.weight" for name in checks.factors(out)} == planted
        assert {module.rank for module in truth.modules} == {rank}
        assert truth.summary.warnings == ()
        assert truth.extra["claims"]["checked"] == len(planted)
        assert truth.summary.counts == result.report.summary.counts
        _check_errors(base, tuned, out, [result.report, truth])
        for module in truth.modules:
            b, a = checks.factors(out)[module.name]
            cast = checks.cast_bound(b, a, module.dtype) / module.delta_norm
            assert module.optimal_error is not None
            assert module.relative_error <= 1.001 * module.optimal_error + cast


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_logits_are_those_of_the_tuned_model(tmp_path: Path, family: str) -> None:
    base, tuned = _pair(tmp_path, family, "fp32")
    for rank in (RANK, 2 * RANK):
        out = tmp_path / f"rank-{rank}"
        result = extract(base, tuned, out, rank=rank, dtype="fp32")
        worst = max(module.relative_error for module in result.report.modules)
        # Storing W_tuned in float32 is all that keeps ΔW from rank 4.
        assert worst < 4 * checks.UNIT / SCALE
        target = checks.logits(checks.load_base(tuned))
        moved = checks.distance(checks.logits(checks.load_base(base)), target)
        found = checks.logits(checks.load_peft(base, out))
        assert moved > 0.01 * float(target.norm())
        assert checks.distance(found, target) <= AMPLIFICATION * worst * moved


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_merge_gives_a_model_with_the_same_logits(tmp_path: Path, family: str) -> None:
    base, tuned = _pair(tmp_path, family, "fp32")
    extract(base, tuned, tmp_path / "adapter", rank=RANK)
    merge(base, tmp_path / "adapter", tmp_path / "merged")
    adapted = checks.logits(checks.load_peft(base, tmp_path / "adapter"))
    merged = checks.logits(checks.load_base(tmp_path / "merged"))
    moved = checks.distance(checks.logits(checks.load_base(base)), adapted)
    # Merging rounds every weight to float32, which is UNIT / SCALE of the change.
    assert checks.distance(merged, adapted) <= AMPLIFICATION * checks.UNIT / SCALE * moved


def test_a_pair_of_fp16_checkpoints(tmp_path: Path) -> None:
    base, tuned = _pair(tmp_path, "llama", "fp16")
    out = tmp_path / "out"
    result = extract(base, tuned, out, rank=RANK)
    _check_errors(base, tuned, out, [result.report, verify(base, tuned, out)])
    assert {row.dtype_base for row in result.report.tensors} == {"F16"}

"""The report of `extract`: every tensor once, and every figure against float64 NumPy."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest

import extraction_checks as checks
import lora_files as files
import tiny_models
from loragraft.extraction import extract
from loragraft.report.model import ModuleReport, Summary, TensorReport
from loragraft.verification import verify

if TYPE_CHECKING:
    from pathlib import Path

RANK = 6
FRACTION = {"BF16": 7, "F16": 10, "F32": 23}
DTYPE_PAIRS = [
    ("BF16", "BF16"),
    ("F16", "F16"),
    ("F32", "F32"),
    ("BF16", "F32"),
    ("F32", "F16"),
    ("F16", "BF16"),
]


def _ulp_square(stored: files.Array, code: str) -> float:
    """Σ ulp², each ulp from the exponent that frexp gives; the values are normal numbers."""
    values = stored.astype(np.float64)
    _, exponents = np.frexp(values[values != 0.0])
    return float(np.sum(4.0 ** (exponents - 1.0 - FRACTION[code])))


def _check_module(case: dict[str, Any], row: ModuleReport, b: files.Array, a: files.Array) -> None:
    """Every figure of a row against its definition, densely and in float64."""
    key = f"{row.name}.weight"
    stored = case["tuned"][key]
    base = case["base"][key].astype(np.float64)
    change = stored.astype(np.float64) - base
    size = float(np.linalg.norm(change))
    left_out = change - (row.alpha / row.rank) * (b.astype(np.float64) @ a.astype(np.float64))
    spectrum = np.linalg.svd(change, compute_uv=False)
    best = float(np.linalg.norm(spectrum[row.rank :])) / size
    # ΔW is rounded to float32 once, and B·A is formed in float32; the sums are double.
    noise = checks.UNIT + checks.product_bound(b, a, row.alpha / row.rank) / size + 1e-10
    assert row.delta_norm == pytest.approx(size, rel=2 * checks.UNIT)
    assert row.weight_norm == pytest.approx(float(np.linalg.norm(base)), rel=1e-10)
    assert row.relative_error == pytest.approx(float(np.linalg.norm(left_out)) / size, abs=noise)
    assert row.energy == 1.0 - row.relative_error**2
    code = {array.dtype: code for code, array in _samples().items()}[stored.dtype]
    floor = math.sqrt(_ulp_square(stored, code) / 12.0) / size
    assert row.rounding_floor == pytest.approx(floor, rel=2 * checks.UNIT)
    assert row.optimal_error is not None
    assert best * (1 - 1e-6) - noise <= row.optimal_error <= 1.001 * best + noise
    cast = checks.cast_bound(b, a, row.dtype, row.alpha / row.rank) / size
    assert row.relative_error <= 1.001 * best + cast + noise
    _check_singular_values(row, spectrum)


def _samples() -> dict[str, files.Array]:
    return {code: np.zeros(1, dtype) for code, dtype in files.NUMPY_DTYPES.items()}


def _check_singular_values(row: ModuleReport, spectrum: files.Array) -> None:
    found = np.array(row.singular_values)
    assert len(found) >= row.rank
    assert (np.diff(found) <= 0.0).all()
    # Values of a projection never exceed the true ones, but for float32 noise of the largest.
    noise = 8 * np.finfo(np.float32).eps * spectrum[0]
    assert (found <= spectrum[: len(found)] + noise).all()
    left_out = float(np.sum(spectrum[row.rank :] ** 2))
    missed = float(np.sum(spectrum[: row.rank] ** 2 - found[: row.rank] ** 2))
    # An error within 1.001 of the optimum is an energy within 0.2 % of what the optimum leaves.
    assert missed <= (1.001**2 - 1) * left_out + 2 * row.rank * noise * spectrum[0]


@pytest.mark.parametrize(("left", "right"), DTYPE_PAIRS)
@pytest.mark.parametrize("alpha", [None, 2.5])
def test_figures_equal_their_definitions(
    tmp_path: Path, left: str, right: str, alpha: float | None
) -> None:
    case = checks.noise_pair(tmp_path, files.SHAPES | checks.SKETCHED, dtypes=(left, right))
    out = tmp_path / "out"
    report = extract(*case["paths"], out, rank=RANK, alpha=alpha).report
    written = checks.factors(out)
    assert {row.name for row in report.modules} == set(written)
    assert len(written) == 8
    for row in report.modules:
        _check_module(case, row, *written[row.name])
    total = checks.root_sum([row.delta_norm for row in report.modules])
    residual = checks.root_sum([row.relative_error * row.delta_norm for row in report.modules])
    assert report.summary.error == pytest.approx(residual / total, rel=1e-12)
    assert report.summary.energy == pytest.approx(1.0 - (residual / total) ** 2, rel=1e-12)
    assert report.summary.bytes_written == (out / checks.TENSORS).stat().st_size
    both = [*case["base"].values(), *case["tuned"].values()]
    assert report.summary.bytes_read == sum(array.nbytes for array in both)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_figures_hold_for_extreme_weights(tmp_path: Path, scale: float) -> None:
    case = checks.noise_pair(tmp_path, checks.SKETCHED, dtypes=("F32", "F32"))
    for side in ("base", "tuned"):
        scaled = {name: array * np.float32(scale) for name, array in case[side].items()}
        case[side] = scaled
        files.write_checkpoint(tmp_path / f"scaled-{side}", scaled)
    sides = (tmp_path / "scaled-base", tmp_path / "scaled-tuned")
    report = extract(*sides, tmp_path / "out", rank=RANK).report
    written = checks.factors(tmp_path / "out")
    for row in report.modules:
        _check_module(case, row, *written[row.name])
    # The factors' entries are near 1e-7 and 1e6, beyond what fp16 holds well.
    assert {row.dtype for row in report.modules} == {"BF16"}


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_every_tensor_has_one_outcome(tmp_path: Path, family: str) -> None:
    base = tiny_models.build(family, tmp_path / "base", seed=1, dtype="bf16")
    tuned = tiny_models.perturb(
        base, tmp_path / "tuned", rank=2, seed=2, scale=0.05, vectors=0.05, modules="weight"
    )
    report = extract(base, tuned, tmp_path / "out", rank=RANK).report
    before, after = tiny_models.read_tensors(base), tiny_models.read_tensors(tuned)
    assert set(checks.outcomes(report)) == set(before) == set(after)
    adapted = {f"{name}.weight" for name in checks.factors(tmp_path / "out")}
    for row in report.tensors:
        left, right = (side[row.name].double().numpy() for side in (before, after))
        assert row.shape == left.shape
        change = checks.norm(right - left) / checks.norm(left)
        assert row.relative_change == pytest.approx(change, rel=1e-6)
        if row.name in adapted:
            assert (row.outcome.value, row.why) == ("adapted", "")
        elif change == 0.0:
            assert row.outcome.value == "unchanged"
        else:
            assert row.outcome.value == "left_out"
            assert row.why.split(":")[0] == _why(row)
    assert report.summary.counts["adapted"] == len(adapted)
    assert sum(report.summary.counts.values()) == len(before)
    assert verify(base, tuned, tmp_path / "out").summary.counts == report.summary.counts


def _why(row: TensorReport) -> str:
    """What the tests take a tensor of the tiny models for, from its name and shape."""
    if row.name.endswith(("lm_head.weight", "embed_out.weight")):
        return "head"
    if len(row.shape) == 2:
        return "embedding"
    return "bias" if row.name.endswith("bias") else "norm"


def test_equal_and_changed_tensors_side_by_side(tmp_path: Path) -> None:
    base = files.random_weights()
    tuned = dict(base)
    norm, head = "model.norm.weight", "lm_head.weight"
    tuned[norm] = (base[norm].astype(np.float32) * 1.5).astype(ml_dtypes.bfloat16)
    tuned[head] = -base[head]
    key = f"{files.Q0}.weight"
    tuned[key] = (base[key].astype(np.float32) + 0.25).astype(ml_dtypes.bfloat16)
    left = files.write_checkpoint(tmp_path / "base", base)
    right = files.write_checkpoint(tmp_path / "tuned", tuned)
    report = extract(left, right, tmp_path / "out", rank=1).report
    found = checks.outcomes(report)
    assert {name for name, outcome in found.items() if outcome != "unchanged"} == {norm, head, key}
    assert checks.tensor(report, head).relative_change == pytest.approx(2.0, rel=1e-12)
    assert checks.tensor(report, head).why.startswith("head")
    assert checks.tensor(report, files.K1 + ".weight").relative_change == 0.0
    assert report.summary.counts == {"adapted": 1, "unchanged": 8, "saved_whole": 0, "left_out": 2}


def test_signs_of_zero_are_no_change(tmp_path: Path) -> None:
    base = files.random_weights(dtype="F32")
    tuned = files.add_delta(base, files.random_factors((files.Q0,), 1), dtype="F32")
    base[f"{files.K1}.weight"][:] = 0.0
    tuned[f"{files.K1}.weight"] = -base[f"{files.K1}.weight"]
    left = files.write_checkpoint(tmp_path / "base", base)
    right = files.write_checkpoint(tmp_path / "tuned", tuned)
    report = extract(left, right, tmp_path / "out", rank=1).report
    assert checks.outcomes(report)[f"{files.K1}.weight"] == "unchanged"
    assert [row.name for row in report.modules] == [files.Q0]


def test_a_change_from_zero_has_no_relative_size(tmp_path: Path) -> None:
    base = files.random_weights(dtype="F32")
    tuned = dict(base)
    base[f"{files.Q0}.weight"] = np.zeros_like(base[f"{files.Q0}.weight"])
    left = files.write_checkpoint(tmp_path / "base", base)
    right = files.write_checkpoint(tmp_path / "tuned", tuned)
    report = extract(left, right, tmp_path / "out", rank=2).report
    assert checks.tensor(report, f"{files.Q0}.weight").relative_change is None
    assert json.loads((tmp_path / "out" / "report.json").read_text())["modules"]


def test_report_json_has_the_published_schema(tmp_path: Path) -> None:
    case = files.noisy_pair(tmp_path)
    base, tuned, _ = case["paths"]
    result = extract(base, tuned, tmp_path / "out", rank=RANK, exclude="k_proj", layers="0-1")
    data = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert data == json.loads(json.dumps(result.report.to_json()))
    assert data["schema"] == "loragraft.report/1"
    assert data["command"] == "extract"
    assert data["inputs"] | {"base": str(base), "tuned": str(tuned)} == data["inputs"]
    assert (data["inputs"]["rank"], data["inputs"]["exclude"]) == (RANK, ["k_proj"])
    assert data["inputs"]["layers"] == [0, 1]
    for part, kind in (("summary", Summary), ("tensors", TensorReport), ("modules", ModuleReport)):
        rows = [data[part]] if part == "summary" else data[part]
        assert rows
        for row in rows:
            assert set(row) == {field.name for field in fields(kind)}
    assert {row["name"] for row in data["tensors"]} == set(case["base"])
    assert {row["name"] for row in data["modules"]} == {files.Q0, files.DOWN0}
    assert all(len(row["singular_values"]) >= RANK for row in data["modules"])
    assert all(row["seconds"] >= 0.0 for row in data["modules"])
    assert "singular_values" not in result.report.to_json(singular_values=False)["modules"][0]
    assert 0.0 < data["summary"]["seconds"] < 60.0
    assert f"; rank {RANK} on 2 modules keeps " in data["summary"]["verdict"]


def test_the_card_states_the_measured_figures(tmp_path: Path) -> None:
    base, tuned, _ = files.noisy_pair(tmp_path)["paths"]
    extract(base, tuned, tmp_path / "out", rank=RANK, report=False)
    assert sorted(checks.contents(tmp_path / "out")) == ["README.md", checks.CONFIG, checks.TENSORS]
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\n")
    assert "q_proj" in card
    assert "down_proj" in card

"""`verify` against the report that an extraction left: honest ones, lies, and garbage."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

import lora_files as files
from loragraft.verification import verify

if TYPE_CHECKING:
    from pathlib import Path

    from loragraft.report.model import Report


def _write_claims(adapter: Path, report: Report, **lies: Any) -> None:
    """Put a report.json of an extraction beside the adapter, with lies about one module."""
    claims = report.to_json() | {"command": "extract"}
    module = next(module for module in claims["modules"] if module["name"] == files.Q0)
    module.update(lies)
    (adapter / "report.json").write_text(json.dumps(claims), encoding="utf-8")


def test_true_claims_pass(tmp_path: Path) -> None:
    case = files.noisy_pair(tmp_path)
    _write_claims(case["paths"][2], verify(*case["paths"], optimum=True))
    report = verify(*case["paths"], optimum=True)
    assert report.extra["claims"]["checked"] == len(files.ADAPTED)
    assert report.extra["claims"]["worst_difference"] == 0.0
    assert report.summary.warnings == ()
    assert report.to_json()["claims"] == report.extra["claims"]


def test_a_planted_lie_is_found(tmp_path: Path) -> None:
    case = files.noisy_pair(tmp_path)
    truth = verify(*case["paths"])
    honest = next(module for module in truth.modules if module.name == files.Q0)
    _write_claims(case["paths"][2], truth, relative_error=honest.relative_error - 2e-4)
    report = verify(*case["paths"])
    assert report.extra["claims"]["worst_difference"] == pytest.approx(2e-4, rel=1e-6)
    assert report.extra["claims"]["module"] == files.Q0
    (warning,) = report.summary.warnings
    assert "relative_error" in warning
    assert files.Q0 in warning


@pytest.mark.parametrize(
    ("figure", "value"),
    [
        ("relative_error", float("nan")),
        ("relative_error", "small"),
        ("energy", 0.9999),
        ("bit_exact", 1.0),
        ("delta_norm", 1e-3),
        ("weight_norm", 0.0),
        ("optimal_error", 1e-3),
    ],
)
def test_every_claimed_figure_is_checked(tmp_path: Path, figure: str, value: Any) -> None:
    case = files.noisy_pair(tmp_path)
    _write_claims(case["paths"][2], verify(*case["paths"], optimum=True), **{figure: value})
    report = verify(*case["paths"], optimum=True)
    (warning,) = report.summary.warnings
    assert figure in warning
    assert "in 1 of 3 modules" in warning


def test_claims_about_other_modules_are_told(tmp_path: Path) -> None:
    case = files.noisy_pair(tmp_path)
    _write_claims(case["paths"][2], verify(*case["paths"]), name="model.layers.9.mlp.up_proj")
    warnings = verify(*case["paths"]).summary.warnings
    assert len(warnings) == 2
    assert "model.layers.9.mlp.up_proj" in warnings[0]
    assert files.Q0 in warnings[1]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"schema": "other/1"}',
        "[" * 100_000,
        '{"schema": "loragraft.report/1", "command": "extract", "modules": [7]}',
    ],
)
def test_an_unreadable_report_is_only_a_warning(tmp_path: Path, text: str) -> None:
    case = files.noisy_pair(tmp_path)
    (case["paths"][2] / "report.json").write_text(text, encoding="utf-8")
    report = verify(*case["paths"])
    assert len(report.summary.warnings) == 1
    assert "\n" not in report.summary.warnings[0]
    assert len(report.modules) == len(files.ADAPTED)


def test_report_of_a_transfer_makes_no_claims_here(tmp_path: Path) -> None:
    case = files.noisy_pair(tmp_path)
    claims = {"schema": "loragraft.report/1", "command": "transfer"}
    (case["paths"][2] / "report.json").write_text(json.dumps(claims), encoding="utf-8")
    report = verify(*case["paths"])
    assert "claims" not in report.extra

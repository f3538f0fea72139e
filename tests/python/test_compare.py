"""Comparisons of models: the figures against float64, and what is called related."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import transfer_files as made
from loragraft import compare

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAGRAFT_CACHE", "off")


def test_figures_are_those_of_the_definition(tmp_path: Path) -> None:
    a = made.llama(tmp_path / "A", seed=1)
    b = made.moved(a, tmp_path / "B", change=0.3)
    report = compare(a, b, subspace_rank=12).report
    ours, theirs = made.matrices(a), made.matrices(b)
    assert {row.name for row in report.modules} == set(ours)
    for row in report.modules:
        x, y = ours[row.name], theirs[row.name]
        nx, ny = np.linalg.norm(x), np.linalg.norm(y)
        assert row.weight_change == pytest.approx(np.linalg.norm(y - x) / nx, rel=1e-12)
        assert row.weight_cosine == pytest.approx(np.vdot(x, y) / (nx * ny), rel=1e-12)
        (ux, _, vx), (uy, _, vy) = np.linalg.svd(x), np.linalg.svd(y)
        for side, one, other in ((row.left, ux, uy), (row.right, vx.T, vy.T)):
            exact = np.linalg.norm(one[:, :12].T @ other[:, :12]) ** 2 / 12
            # Randomised subspaces of float32 weights whose spectra have no gap.
            assert side.similarity == pytest.approx(exact, abs=0.02)
            assert side.chance == pytest.approx(12 / one.shape[0])
    summary = report.summary
    assert summary.weight_change == pytest.approx(0.3, rel=1e-5)
    assert summary.clear == summary.modules == 28
    assert summary.verdict.startswith("clearly related")


def test_unrelated_models_are_not_related(tmp_path: Path) -> None:
    a, b = made.llama(tmp_path / "A", seed=1), made.llama(tmp_path / "B", seed=2)
    summary = compare(a, b, subspace_rank=12).report.summary
    assert summary.clear == 0
    assert summary.excess == pytest.approx(0.0, abs=0.02)
    assert summary.weight_change == pytest.approx(2**0.5, rel=0.05)
    assert summary.verdict.startswith("not clearly related")


def test_a_model_is_itself(tmp_path: Path) -> None:
    a = made.llama(tmp_path / "A", seed=1)
    report = compare(a, a, subspace_rank=12).report
    assert report.summary.weight_change == 0.0
    assert report.summary.excess == pytest.approx(1.0, abs=1e-5)


def test_other_widths_are_compared_as_far_as_anything_is_defined(tmp_path: Path) -> None:
    a, b = made.llama(tmp_path / "A", seed=1), made.wider(tmp_path / "B", seed=2)
    report = compare(a, b, subspace_rank=12).report
    assert report.summary.excess is None
    assert "unknown" in report.summary.verdict
    assert {row.other.split(".")[2] for row in report.modules} == {"0", "2", "3", "5"}
    assert all(row.left.similarity is None and row.weight_change is None for row in report.modules)

"""Checkpoints that fit each other only in part, or hardly: what is left out, and the warnings."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.torch import save_file

import extraction_checks as checks
import lora_files as files
import tiny_models
from loragraft.errors import MismatchError, NothingToAdaptError
from loragraft.extraction import extract
from loragraft.verification import verify

if TYPE_CHECKING:
    from pathlib import Path

    from loragraft.report.model import Report

    Array = files.Array

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
Q0 = f"{files.Q0}.weight"


def _sides(tmp_path: Path, base: dict[str, Array], tuned: dict[str, Array]) -> tuple[Path, Path]:
    return (
        files.write_checkpoint(tmp_path / "base", base),
        files.write_checkpoint(tmp_path / "tuned", tuned),
    )


def _tuned(base: dict[str, Array], scale: float = 0.02) -> dict[str, Array]:
    """A copy with a rank-2 change in every linear layer of the blocks."""
    names = tuple(name.removesuffix(".weight") for name in files.SHAPES if "proj" in name)
    return files.add_delta(base, files.random_factors(names, 2, scale=scale**0.5))


def _only(report: Report) -> str:
    (warning,) = report.summary.warnings
    return warning


def test_a_fine_tune_gives_no_warning(tmp_path: Path) -> None:
    base = files.random_weights()
    report = extract(*_sides(tmp_path, base, _tuned(base)), tmp_path / "out", rank=2).report
    assert report.summary.warnings == ()


def test_a_vocabulary_that_grew(tmp_path: Path) -> None:
    base = tiny_models.build("llama", tmp_path / "base", seed=1)
    tuned = tiny_models.perturb(base, tmp_path / "tuned", rank=2, seed=2, scale=0.1)
    tensors = tiny_models.read_tensors(tuned)
    for name in (EMBEDDING, HEAD):
        tensors[name] = tensors[name].new_ones(tensors[name].shape[0] + 8, 32)
    save_file(tensors, tuned / "model.safetensors", metadata={"format": "pt"})
    tiny_models.edit_config(tuned, vocab_size=tiny_models.VOCABULARY + 8)
    report = extract(base, tuned, tmp_path / "out", rank=2).report
    for name in (EMBEDDING, HEAD):
        row = checks.tensor(report, name)
        assert row.outcome.value == "left_out"
        assert row.why == "vocabulary differs: 128 rows in BASE, 136 in TUNED"
        assert row.relative_change is None
    config, one_sided = report.summary.warnings
    assert "vocab_size (128 in BASE, 136 in TUNED)" in config
    assert "2 tensors could not be compared" in one_sided
    assert len(checks.scalings(checks.load_peft(base, tmp_path / "out"))) == 21
    assert verify(base, tuned, tmp_path / "out").summary.counts == report.summary.counts


def test_tensors_on_one_side_only(tmp_path: Path) -> None:
    base = files.random_weights()
    tuned = _tuned(base)
    del base[HEAD]
    del tuned[f"{files.K1}.weight"]
    tuned["model.layers.0.self_attn.q_proj.bias"] = np.ones(24, ml_dtypes.bfloat16)
    report = extract(*_sides(tmp_path, base, tuned), tmp_path / "out", rank=2).report
    assert set(checks.outcomes(report)) == {*base, *tuned}
    whys = {
        row.name: (row.why, row.dtype_base, row.dtype_tuned)
        for row in report.tensors
        if row.outcome.value == "left_out"
    }
    assert whys == {
        HEAD: ("only in TUNED", None, "BF16"),
        f"{files.K1}.weight": ("only in BASE", "BF16", None),
        f"{files.Q0}.bias": ("only in TUNED", None, "BF16"),
    }
    assert "3 tensors could not be compared" in _only(report)
    assert files.K1 not in checks.factors(tmp_path / "out")


def test_formats_that_are_not_computed_with(tmp_path: Path) -> None:
    """Doubles and integers are left out, or equal as they stand."""
    base = files.random_weights()
    tuned = _tuned(base)
    double, mixed, mask = f"{files.Q0}.weight", f"{files.DOWN0}.weight", "model.layers.0.mask"
    for side in (base, tuned):
        side[double] = side[double].astype(np.float64)
        side[mask] = np.arange(6, dtype=np.int64)
    tuned[mixed] = tuned[mixed].astype(np.float64)
    tuned["model.layers.1.mask"] = base["model.layers.1.mask"] = np.zeros((2, 2), np.uint8)
    tuned[mask] = tuned[mask] + 1
    report = extract(*_sides(tmp_path, base, tuned), tmp_path / "out", rank=2).report
    rows = {row.name: row for row in report.tensors}
    for name, code in ((double, "F64 in BASE"), (mixed, "F64 in TUNED"), (mask, "I64")):
        assert rows[name].outcome.value == "left_out"
        assert rows[name].why.startswith(code)
        assert rows[name].relative_change is None
    assert rows["model.layers.1.mask"].outcome.value == "unchanged"
    assert {files.Q0, files.DOWN0}.isdisjoint(checks.factors(tmp_path / "out"))
    assert verify(*_paths(tmp_path), tmp_path / "out").summary.counts == report.summary.counts


def _paths(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "base", tmp_path / "tuned"


def test_only_layers_that_are_not_computed_with(tmp_path: Path) -> None:
    base = files.random_weights()
    tuned = {
        name: array.astype(np.float64) if "proj" in name else array
        for name, array in _tuned(base).items()
    }
    sides = _sides(tmp_path, base, tuned)
    checks.refused(
        NothingToAdaptError,
        "none of the 6 chosen layers can be compared.*F64 in TUNED",
        lambda: extract(*sides, tmp_path / "out"),
        tmp_path,
    )


def test_tensors_without_elements(tmp_path: Path) -> None:
    base = files.random_weights()
    tuned = _tuned(base)
    for side in (base, tuned):
        side["model.empty"] = np.zeros((0, 4), np.float32)
        side["model.scale"] = np.array(2.0 if side is base else 3.0, np.float32)
    report = extract(*_sides(tmp_path, base, tuned), tmp_path / "out", rank=2).report
    assert checks.tensor(report, "model.empty").outcome.value == "unchanged"
    assert checks.tensor(report, "model.scale").relative_change == pytest.approx(0.5)


def test_a_base_that_is_not_the_base(tmp_path: Path) -> None:
    """Another random model of the same shape: √2 of the norm, which the warning tells."""
    base = tiny_models.build("llama", tmp_path / "base", seed=1)
    other = tiny_models.build("llama", tmp_path / "other", seed=9)
    report = extract(base, other, tmp_path / "out", rank=4).report
    changes = [row.delta_norm / row.weight_norm for row in report.modules]
    first = report.summary.warnings[0]
    assert f"the median change is {np.median(changes):.2f} of the weights' own norm" in first
    assert np.median(changes) == pytest.approx(2**0.5, rel=0.05)
    assert "probably not what TUNED was trained from" in first


def test_configs_that_differ(tmp_path: Path) -> None:
    base = files.random_weights()
    sides = _sides(tmp_path, base, _tuned(base))
    common = {"torch_dtype": "float32", "transformers_version": "9", "use_cache": False}
    tiny_models.edit_config(sides[1], **common)
    assert extract(*sides, rank=2).report.summary.warnings == ()
    tiny_models.edit_config(sides[1], rope_theta=5e5, rope_scaling={"type": "x" * 40})
    warning = _only(extract(*sides, tmp_path / "out", rank=2).report)
    assert warning.startswith("config.json differs in rope_scaling (null in BASE, {")
    assert "rope_theta (null in BASE, 500000.0 in TUNED)" in warning
    tiny_models.edit_config(sides[1], a=1, b=2, c=3)
    assert "and 2 more" in _only(extract(*sides, rank=2).report)


def test_tokenizers_that_differ(tmp_path: Path) -> None:
    base = files.random_weights()
    sides = _sides(tmp_path, base, _tuned(base))
    for side in sides:
        (side / "tokenizer.json").write_text("{}")
        (side / "vocab.json").write_text("{}")
    assert extract(*sides, rank=2).report.summary.warnings == ()
    (sides[1] / "tokenizer.json").write_text('{"added": 1}')
    warning = _only(extract(*sides, tmp_path / "out", rank=2).report)
    assert warning == "the tokenizers differ (tokenizer.json): use TUNED's with the adapter"
    data = json.loads((tmp_path / "out" / "report.json").read_bytes())
    assert data["summary"]["warnings"] == [warning]


def test_a_large_change_that_is_left_out(tmp_path: Path) -> None:
    base = files.random_weights()
    tuned = _tuned(base)
    tuned[EMBEDDING] = -base[EMBEDDING]
    report = extract(*_sides(tmp_path, base, tuned), tmp_path / "out", rank=2).report
    warning, offer = report.summary.warnings
    assert f"{EMBEDDING} (embedding) by 200.0%" in warning
    assert offer.startswith(f"--save-whole embeddings would carry {EMBEDDING}")


@pytest.mark.parametrize("swap", [False, True])
def test_different_architectures(tmp_path: Path, swap: bool) -> None:
    sides = [
        tiny_models.build("llama", tmp_path / "llama", seed=1),
        tiny_models.build("gpt_neox", tmp_path / "neox", seed=1),
    ]
    if swap:
        sides.reverse()
    message = checks.refused(
        MismatchError,
        "share 1 of",
        lambda: extract(*sides, tmp_path / "out"),
        tmp_path,
    )
    lacking = {
        "llama": "embed_out.weight, gpt_neox.embed_in.weight, gpt_neox.final_layer_norm.bias"
    }
    lacking["neox"] = "lm_head.weight, model.embed_tokens.weight, model.layers.0.input_layernorm"
    for side, path in zip(("BASE", "TUNED"), sides, strict=True):
        assert f"{side} ({path}) lacks {lacking[path.name]}" in message


def test_shapes_that_differ(tmp_path: Path) -> None:
    base = files.random_weights()
    tuned: dict[str, Any] = {
        name: array[..., :16] if "proj" in name else array for name, array in base.items()
    }
    tuned = {name: np.ascontiguousarray(array) for name, array in tuned.items()}
    message = checks.refused(
        MismatchError,
        "different numbers of experts, 6 in all",
        lambda: extract(*_paths(tmp_path), tmp_path / "out"),
        (tmp_path, _sides(tmp_path, base, tuned))[0],
    )
    assert "(24, 24) against (24, 16)" in message
    assert "and 3 more" in message


def test_a_norm_of_another_size(tmp_path: Path) -> None:
    base = files.random_weights()
    tuned = _tuned(base)
    tuned["model.norm.weight"] = np.ones(25, ml_dtypes.bfloat16)
    sides = _sides(tmp_path, base, tuned)
    checks.refused(
        MismatchError,
        r"model\.norm\.weight \(24,\) against \(25,\)",
        lambda: extract(*sides, tmp_path / "out"),
        tmp_path,
    )


@pytest.mark.parametrize("in_memory", [False, True])
def test_identical_checkpoints(tmp_path: Path, in_memory: bool) -> None:
    base = files.random_weights()
    sides = _sides(tmp_path, base, dict(base))
    checks.refused(
        NothingToAdaptError,
        "all 6 chosen layers are equal",
        lambda: extract(*sides, None if in_memory else tmp_path / "out"),
        tmp_path,
    )


def test_only_other_tensors_changed(tmp_path: Path) -> None:
    base = files.random_weights()
    tuned = dict(base)
    tuned[EMBEDDING] = -base[EMBEDDING]
    sides = _sides(tmp_path, base, tuned)
    checks.refused(
        NothingToAdaptError, "nothing to adapt", lambda: extract(*sides, tmp_path / "o"), tmp_path
    )

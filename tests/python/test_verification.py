"""`verify` against float64 references, hand-computed cases, and lies."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import lora_files as files
import tiny_models
from loragraft.errors import FormatError, MismatchError, NonFiniteError
from loragraft.report.model import Outcome, Report
from loragraft.verification import verify

if TYPE_CHECKING:
    from pathlib import Path

RANK = files.RANK


def _reference(
    base: files.Array, tuned: files.Array, b: files.Array, a: files.Array, scaling: float
) -> dict[str, float]:
    """Every figure from its definition, densely and in float64."""
    change = tuned.astype(np.float64) - base.astype(np.float64)
    residual = change - scaling * (b.astype(np.float64) @ a.astype(np.float64))
    spectrum = np.linalg.svd(change, compute_uv=False)
    norm = float(np.linalg.norm(change))
    error = float(np.linalg.norm(residual)) / norm
    return {
        "delta_norm": norm,
        "weight_norm": float(np.linalg.norm(base.astype(np.float64))),
        "relative_error": error,
        "energy": 1.0 - error**2,
        "optimal_error": float(np.linalg.norm(spectrum[RANK:])) / norm,
    }


def _tensor(report: Report, name: str) -> Any:
    (found,) = [tensor for tensor in report.tensors if tensor.name == name]
    return found


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_figures_equal_their_definitions(tmp_path: Path, dtype: str) -> None:
    case = files.noisy_pair(tmp_path, dtype=dtype)
    report = verify(*case["paths"], optimum=True)
    assert [module.name for module in report.modules] == [files.DOWN0, files.Q0, files.K1]
    for module in report.modules:
        key = f"{module.name}.weight"
        expected = _reference(
            case["base"][key], case["tuned"][key], *case["factors"][module.name], 2.0
        )
        for figure, value in expected.items():
            # The derived bound: (r + 2)·√r·u = 5e-7 of the change, and the factors' imbalance.
            assert getattr(module, figure) == pytest.approx(value, rel=2e-6), figure
        spectrum = np.linalg.svd(
            case["tuned"][key].astype(np.float64) - case["base"][key].astype(np.float64),
            compute_uv=False,
        )
        assert module.singular_values == pytest.approx(spectrum[: 2 * RANK].tolist(), rel=1e-9)
        assert (module.rank, module.alpha, module.dtype) == (RANK, 2.0 * RANK, "F32")
        assert module.shape == files.SHAPES[key]


def test_figures_of_the_whole_are_weighted_by_the_change(tmp_path: Path) -> None:
    case = files.noisy_pair(tmp_path)
    report = verify(*case["paths"])
    residual = math.fsum((m.relative_error * m.delta_norm) ** 2 for m in report.modules)
    change = math.fsum(m.delta_norm**2 for m in report.modules)
    assert report.summary.error == pytest.approx(math.sqrt(residual / change), rel=1e-12)
    assert report.summary.energy == pytest.approx(1.0 - residual / change, rel=1e-12)
    weights = sum(math.prod(m.shape) for m in report.modules)
    exact = sum((m.bit_exact or 0.0) * math.prod(m.shape) for m in report.modules)
    assert report.summary.bit_exact == pytest.approx(exact / weights, rel=1e-12)
    assert report.summary.warnings == ()
    assert report.modules[0].optimal_error is None
    assert report.modules[0].singular_values == ()


def test_small_residuals_do_not_cancel(tmp_path: Path) -> None:
    """An error of 1e-4 is stated as 1e-4; as a difference of float32 norms it would print 0."""
    base = files.random_weights(dtype="F32")
    factors = files.random_factors((files.Q0,), RANK)
    key = f"{files.Q0}.weight"
    b, a = (factor.astype(np.float64) for factor in factors[files.Q0])
    # On a base of zeros the tuned weight holds the product to 24 bits.
    base[key] = np.zeros_like(base[key])
    tuned = dict(base)
    rng = np.random.default_rng(3)
    off = rng.standard_normal((24, 24))
    off *= 1e-4 * np.linalg.norm(b @ a) / np.linalg.norm(off)
    tuned[key] = (b @ a + off).astype(np.float32)
    report = verify(
        files.write_checkpoint(tmp_path / "base", base),
        files.write_checkpoint(tmp_path / "tuned", tuned),
        files.write_adapter(tmp_path / "adapter", factors),
    )
    assert report.modules[0].relative_error == pytest.approx(1e-4, rel=1e-2)
    assert report.modules[0].energy < 1.0
    assert _tensor(report, key).relative_change is None  # ‖W_base‖ is 0


def test_rounding_floor_foretells_the_error_of_a_merge(tmp_path: Path) -> None:
    """When all of the residual is storage rounding, its expected size is the floor."""
    case = files.noisy_pair(tmp_path, noise=0.0)
    report = verify(*case["paths"])
    for module in report.modules:
        assert module.bit_exact == 1.0
        assert module.relative_error == pytest.approx(module.rounding_floor, rel=0.1)


def test_slabs_do_not_change_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = files.noisy_pair(tmp_path)
    whole = verify(*case["paths"], optimum=True)
    monkeypatch.setattr("loragraft.adapter.delta.slabs.__defaults__", (4 * 24 * 5,))
    pieces = verify(*case["paths"], optimum=True)
    for one, other in zip(whole.modules, pieces.modules, strict=True):
        assert one.relative_error == pytest.approx(other.relative_error, rel=1e-12)
        assert one.bit_exact == other.bit_exact
        assert one.rounding_floor == pytest.approx(other.rounding_floor, rel=1e-12)


def test_every_tensor_has_an_outcome(tmp_path: Path) -> None:
    base = files.random_weights()
    factors = files.random_factors((files.Q0,), RANK)
    tuned = files.add_delta(base, factors)
    norm = "model.norm.weight"
    tuned[norm] = (tuned[norm].astype(np.float32) * 1.5).astype(files.NUMPY_DTYPES["BF16"])
    loose = f"{files.K1}.weight"
    tuned[loose] = -tuned[loose]
    # Fourteen more tokens, as after adding a chat template's.
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tuned[name] = np.vstack([tuned[name], tuned[name][:14]])
    base["positions"] = np.arange(6, dtype=np.int64)
    tuned["positions"] = np.arange(6, dtype=np.int64)[::-1].copy()
    base["old.weight"], tuned["new.weight"] = np.ones((3, 3), np.float32), np.ones(1, np.float32)
    base["scalar"], tuned["scalar"] = np.array(2.0, np.float32), np.array(3.0, np.float32)
    report = verify(
        files.write_checkpoint(tmp_path / "base", base),
        files.write_checkpoint(tmp_path / "tuned", tuned),
        files.write_adapter(tmp_path / "adapter", factors),
    )
    assert {tensor.name for tensor in report.tensors} == base.keys() | tuned.keys()
    assert len(report.tensors) == len(base.keys() | tuned.keys())
    expected = {
        f"{files.Q0}.weight": (Outcome.ADAPTED, ""),
        norm: (Outcome.LEFT_OUT, "norm"),
        loose: (Outcome.LEFT_OUT, "not in the adapter"),
        "lm_head.weight": (Outcome.LEFT_OUT, "vocabulary differs: 40 rows in BASE, 54 in TUNED"),
        "positions": (Outcome.LEFT_OUT, "I64 is no format to compute with; bits differ"),
        "old.weight": (Outcome.LEFT_OUT, "only in BASE"),
        "new.weight": (Outcome.LEFT_OUT, "only in TUNED"),
        "model.layers.1.input_layernorm.weight": (
            Outcome.UNCHANGED,
            "the same bits on both sides",
        ),
    }
    for name, (outcome, why) in expected.items():
        assert (_tensor(report, name).outcome, _tensor(report, name).why) == (outcome, why)
    assert _tensor(report, norm).relative_change == pytest.approx(0.5, rel=1e-2)
    assert _tensor(report, loose).relative_change == 2.0
    assert _tensor(report, "scalar").relative_change == 0.5
    assert _tensor(report, "old.weight").dtype_tuned is None
    assert _tensor(report, "new.weight").dtype_base is None
    assert sum(report.summary.counts.values()) == len(report.tensors)
    json.dumps(report.to_json(), allow_nan=False)


def test_dtypes_may_differ(tmp_path: Path) -> None:
    base = files.random_weights()
    factors = files.random_factors((files.Q0,), RANK)
    tuned = files.add_delta(
        {name: array.astype(np.float32) for name, array in base.items()}, factors, dtype="F32"
    )
    report = verify(
        files.write_checkpoint(tmp_path / "base", base),
        files.write_checkpoint(tmp_path / "tuned", tuned),
        files.write_adapter(tmp_path / "adapter", factors),
    )
    assert _tensor(report, "model.norm.weight").why == "equal values, stored as BF16 and F32"
    assert report.modules[0].bit_exact == 1.0
    assert report.modules[0].relative_error < 1e-5


def test_signs_of_zero_are_no_change(tmp_path: Path) -> None:
    base = files.random_weights()
    factors = files.random_factors((files.Q0,), RANK)
    tuned = files.add_delta(base, factors)
    name = "model.norm.weight"
    base[name] = np.zeros_like(base[name])
    tuned[name] = -base[name]
    report = verify(
        files.write_checkpoint(tmp_path / "base", base),
        files.write_checkpoint(tmp_path / "tuned", tuned),
        files.write_adapter(tmp_path / "adapter", factors),
    )
    assert _tensor(report, name).outcome is Outcome.UNCHANGED


def test_module_without_a_change_is_told(tmp_path: Path) -> None:
    base = files.random_weights()
    factors = files.random_factors((files.Q0, files.K1), RANK)
    tuned = files.add_delta(base, {files.Q0: factors[files.Q0]})
    report = verify(
        files.write_checkpoint(tmp_path / "base", base),
        files.write_checkpoint(tmp_path / "tuned", tuned),
        files.write_adapter(tmp_path / "adapter", factors),
    )
    still = report.modules[-1]
    assert (still.delta_norm, still.relative_error, still.energy) == (0.0, 1.0, 0.0)
    assert still.rounding_floor is None
    assert len(report.summary.warnings) == 1
    assert files.K1 in report.summary.warnings[0]
    # What the adapter does to that module counts against it.
    assert report.summary.error > report.modules[0].relative_error
    json.dumps(report.to_json(), allow_nan=False)


def test_adapter_that_leads_away_is_told(tmp_path: Path) -> None:
    base = files.random_weights(dtype="F32")
    factors = files.random_factors((files.Q0,), RANK)
    b, a = factors[files.Q0]
    report = verify(
        files.write_checkpoint(tmp_path / "base", base),
        files.write_checkpoint(tmp_path / "tuned", files.add_delta(base, factors, dtype="F32")),
        files.write_adapter(tmp_path / "adapter", {files.Q0: (-b, a)}),
    )
    assert report.modules[0].energy == pytest.approx(-3.0, abs=1e-4)
    assert "further from TUNED" in report.summary.warnings[0]


def test_adapter_of_another_model(tmp_path: Path) -> None:
    base = files.write_checkpoint(tmp_path / "base", files.random_weights())
    b, a = files.random_factors((files.Q0,), RANK)[files.Q0]
    elsewhere = files.write_adapter(tmp_path / "one", {"model.layers.7.mlp.up_proj": (b, a)})
    with pytest.raises(MismatchError, match=r"layers\.7\.mlp\.up_proj.*owner/toy") as caught:
        verify(base, base, elsewhere)
    assert caught.value.exit_code == 4
    wider = files.write_adapter(tmp_path / "two", {files.Q0: (np.vstack([b, b]), a)})
    with pytest.raises(MismatchError, match=r"\(48, 24\).*\(24, 24\)"):
        verify(base, base, wider)
    norm = files.write_adapter(tmp_path / "three", {"model.norm": (b, a)})
    with pytest.raises(MismatchError, match=r"model\.norm \(norm\)"):
        verify(base, base, norm)


def test_shapes_that_differ_are_listed(tmp_path: Path) -> None:
    case = files.noisy_pair(tmp_path)
    tuned = dict(case["tuned"])
    for layer in range(2):
        name = f"model.layers.{layer}.self_attn.k_proj.weight"
        tuned[name] = np.vstack([tuned[name]] * 2)
    other = files.write_checkpoint(tmp_path / "other", tuned)
    with pytest.raises(MismatchError, match=r"shapes, .*2 in all: .*\(8, 24\) against \(16, 24\)"):
        verify(case["paths"][0], other, case["paths"][2])


def test_scalar_against_vector(tmp_path: Path) -> None:
    case = files.noisy_pair(tmp_path)
    base = {**case["base"], "scale": np.array(1.0, np.float32)}
    tuned = {**case["tuned"], "scale": np.array([1.0], np.float32)}
    paths = (
        files.write_checkpoint(tmp_path / "scalar", base),
        files.write_checkpoint(tmp_path / "vector", tuned),
    )
    with pytest.raises(MismatchError, match=r"scale \(\) against \(1,\)"):
        verify(*paths, case["paths"][2])


def test_adapted_tensor_missing_on_the_tuned_side(tmp_path: Path) -> None:
    case = files.noisy_pair(tmp_path)
    tuned = {name: array for name, array in case["tuned"].items() if files.Q0 not in name}
    other = files.write_checkpoint(tmp_path / "other", tuned)
    with pytest.raises(MismatchError, match=r"q_proj.*only in BASE"):
        verify(case["paths"][0], other, case["paths"][2])


@pytest.mark.parametrize("name", [f"{files.Q0}.weight", "model.norm.weight"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_are_named(tmp_path: Path, name: str, value: float) -> None:
    case = files.noisy_pair(tmp_path)
    tuned = dict(case["tuned"])
    tuned[name] = tuned[name].copy()
    tuned[name].flat[5] = value
    other = files.write_checkpoint(tmp_path / "other", tuned)
    with pytest.raises(NonFiniteError, match=name):
        verify(case["paths"][0], other, case["paths"][2])


def test_nan_in_a_factor(tmp_path: Path) -> None:
    case = files.noisy_pair(tmp_path)
    b, a = case["factors"][files.Q0]
    a = a.copy()
    a[0, 0] = np.nan
    broken = files.write_adapter(tmp_path / "broken", {files.Q0: (b, a)})
    with pytest.raises(NonFiniteError, match="lora_A"):
        verify(case["paths"][0], case["paths"][1], broken)


def test_missing_adapter(tmp_path: Path) -> None:
    case = files.noisy_pair(tmp_path)
    with pytest.raises(FormatError):
        verify(case["paths"][0], case["paths"][1], tmp_path / "nothing")


def test_tensors_that_are_no_factors_are_told(tmp_path: Path) -> None:
    case = files.noisy_pair(tmp_path)
    whole = {"base_model.model.model.norm.weight": np.ones(24, np.float32)}
    adapter = files.write_adapter(tmp_path / "more", case["factors"], alpha=6, more=whole)
    report = verify(case["paths"][0], case["paths"][1], adapter)
    assert "model.norm.weight" in report.summary.warnings[0]


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    case = files.noisy_pair(tmp_path)
    calls: list[tuple[str, int, int]] = []
    report = verify(*case["paths"], progress=lambda *call: calls.append(call))
    assert [call[0] for call in calls] == [tensor.name for tensor in report.tensors]
    assert calls[-1][1] == calls[-1][2] == report.summary.bytes_read
    size = case["paths"][2].joinpath("adapter_model.safetensors").stat().st_size
    assert report.summary.bytes_written == size


def test_conv1d_weights_are_stored_the_other_way_round(tmp_path: Path) -> None:
    """GPT-2 stores ``[in, out]``; the adapter's factors do not know."""
    base = tiny_models.build("gpt2", tmp_path / "base", seed=0, dtype="fp32")
    tensors = {name: t.numpy().copy() for name, t in tiny_models.read_tensors(base).items()}
    key = next(name for name in tensors if name.endswith("h.1.attn.c_attn.weight"))
    rng = np.random.default_rng(0)
    b = (rng.standard_normal((96, RANK)) * 0.1).astype(np.float32)
    a = (rng.standard_normal((RANK, 32)) * 0.1).astype(np.float32)
    tensors[key] += (b @ a).T
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    tuned = files.write_checkpoint(tmp_path / "tuned", tensors, config=config)
    adapter = files.write_adapter(
        tmp_path / "adapter", {"transformer.h.1.attn.c_attn": (b, a)}, fan_in_fan_out=True
    )
    report = verify(base, tuned, adapter, optimum=True)
    (module,) = report.modules
    assert module.shape == (96, 32)
    assert module.relative_error < 1e-5
    assert module.delta_norm == pytest.approx(float(np.linalg.norm(b @ a)), rel=1e-5)
    assert (module.bit_exact or 0.0) > 0.99
    assert report.summary.counts["unchanged"] == len(report.tensors) - 1

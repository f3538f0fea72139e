"""Options of `extract`, proven with real PEFT: alpha, dtype, capped ranks, which layers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import extraction_checks as checks
import lora_files as files
import tiny_models
from loragraft.errors import NothingToAdaptError, UsageError
from loragraft.extraction import extract
from loragraft.verification import verify

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RANK = 4


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A Llama whose linear layers, the head too, all change by rank 4."""
    place = tmp_path_factory.mktemp("llama")
    base = tiny_models.build("llama", place / "base", seed=1, dtype="fp32")
    modules = r"(proj|lm_head)\.weight"
    return base, tiny_models.perturb(
        base, place / "tuned", rank=RANK, seed=2, scale=0.05, modules=modules
    )


def _names(llama: tuple[Path, Path]) -> list[str]:
    """Every linear layer but the head."""
    return [n.removesuffix(".weight") for n in tiny_models.read_tensors(llama[0]) if "proj" in n]


@pytest.mark.parametrize("alpha", [0.5, 8, 100.0])
def test_alpha_is_folded_in(tmp_path: Path, llama: tuple[Path, Path], alpha: float) -> None:
    """PEFT scales by alpha / rank, and what it merges does not depend on alpha."""
    plain, scaled = tmp_path / "plain", tmp_path / "scaled"
    extract(*llama, plain, rank=RANK, dtype="fp32")
    result = extract(*llama, scaled, rank=RANK, dtype="fp32", alpha=alpha)
    assert result.config["lora_alpha"] == alpha
    assert {row.alpha for row in result.report.modules} == {alpha}
    one, other = checks.load_peft(llama[0], plain), checks.load_peft(llama[0], scaled)
    assert set(checks.scalings(one).values()) == {1.0}
    assert set(checks.scalings(other).values()) == {alpha / RANK}
    base = tiny_models.read_tensors(llama[0])
    merged = [model.merge_and_unload().state_dict() for model in (one, other)]
    for row in result.report.modules:
        left, right = (state[f"{row.name}.weight"] for state in merged)
        assert not left.equal(base[f"{row.name}.weight"].double())
        # Every factor was rounded to float32 once.
        b, a = checks.factors(plain)[row.name]
        assert checks.distance(left, right) <= 2 * checks.cast_bound(b, a, "F32")


@pytest.mark.parametrize(("dtype", "code"), [("bf16", "BF16"), ("fp16", "F16"), ("fp32", "F32")])
def test_dtype_of_the_factors(
    tmp_path: Path, llama: tuple[Path, Path], dtype: str, code: str
) -> None:
    report = extract(*llama, tmp_path / "out", rank=RANK, dtype=dtype).report
    assert {row.dtype for row in report.modules} == {code}
    stored = {array.dtype for pair in checks.factors(tmp_path / "out").values() for array in pair}
    assert stored == {np.dtype(files.NUMPY_DTYPES[code])}
    checks.load_peft(llama[0], tmp_path / "out")
    for row in report.modules:
        b, a = checks.factors(tmp_path / "out")[row.name]
        cast = checks.cast_bound(b, a, code) / row.delta_norm
        # The exact ΔW has rank 4 up to float32 rounding, so the cast is nearly all of the error.
        assert row.relative_error <= cast + 4 * checks.UNIT / 0.05
        assert row.relative_error > 0.05 * cast
        # The optimum knows no cast.
        assert row.optimal_error is not None
        assert row.optimal_error < 4 * checks.UNIT / 0.05


def test_auto_takes_fp16_where_it_is_safe(tmp_path: Path) -> None:
    """fp16 cannot hold the factors of a tiny or a huge change: those are bf16."""
    base = files.random_weights(dtype="F32")
    change = files.random_factors((files.Q0, files.K1, files.DOWN0), 2)
    change[files.K1] = (change[files.K1][0] * 1e-7, change[files.K1][1] * 1e-7)
    change[files.DOWN0] = (change[files.DOWN0][0] * 1e7, change[files.DOWN0][1] * 1e7)
    base[f"{files.K1}.weight"][:] = 0.0
    tuned = files.add_delta(base, change, dtype="F32")
    sides = (
        files.write_checkpoint(tmp_path / "base", base),
        files.write_checkpoint(tmp_path / "tuned", tuned),
    )
    report = extract(*sides, tmp_path / "out", rank=2).report
    found = {row.name: row.dtype for row in report.modules}
    assert found == {files.Q0: "F16", files.K1: "BF16", files.DOWN0: "BF16"}
    assert verify(*sides, tmp_path / "out").summary.error < 2 * 2.0**-8 * 2**0.5
    checks.refused(
        UsageError,
        "range of fp16.*--dtype bf16 or fp32",
        lambda: extract(*sides, tmp_path / "half", rank=2, dtype="fp16"),
        tmp_path,
    )


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        ({"target_modules": "all-linear"}, lambda n: True),
        ({"target_modules": "attention"}, lambda n: "self_attn" in n),
        ({"target_modules": "mlp"}, lambda n: "mlp" in n),
        ({"target_modules": "q_proj,v_proj"}, lambda n: n.endswith(("q_proj", "v_proj"))),
        ({"target_modules": "re:[12].*(q|up)_proj"}, lambda n: re.search("[12].*(q|up)_", n)),
        ({"exclude": "mlp,k_proj"}, lambda n: "self_attn" in n and "k_proj" not in n),
        ({"exclude": r"re:layers\.0"}, lambda n: "layers.0" not in n),
        ({"layers": "0,2"}, lambda n: "layers.1" not in n),
        ({"layers": "1", "target_modules": "mlp"}, lambda n: "layers.1.mlp" in n),
        ({"target_modules": "model.layers.1.mlp.up_proj"}, lambda n: "1.mlp.up_proj" in n),
        ({"experts": False}, lambda n: True),
    ],
)
def test_which_layers(
    tmp_path: Path,
    llama: tuple[Path, Path],
    options: dict[str, Any],
    chosen: Callable[[str], object],
) -> None:
    report = extract(*llama, tmp_path / "out", rank=2, **options).report
    expected = {name for name in _names(llama) if chosen(name)}
    assert {row.name for row in report.modules} == expected
    checks.load_peft(llama[0], tmp_path / "out")
    found = checks.outcomes(report)
    for name in _names(llama):
        outcome = "adapted" if name in expected else "left_out"
        assert found[f"{name}.weight"] == outcome
        assert bool(checks.tensor(report, f"{name}.weight").why) == (name not in expected)
    assert found["lm_head.weight"] == "left_out"


def test_the_head_on_request(tmp_path: Path, llama: tuple[Path, Path]) -> None:
    report = extract(
        *llama, tmp_path / "out", rank=RANK, target_modules="all-linear,lm_head"
    ).report
    assert {row.name for row in report.modules} == {*_names(llama), "lm_head"}
    model = checks.load_peft(llama[0], tmp_path / "out")
    target = checks.logits(checks.load_base(llama[1]))
    moved = checks.distance(checks.logits(checks.load_base(llama[0])), target)
    assert checks.distance(checks.logits(model), target) < 0.01 * moved


@pytest.mark.parametrize(("rank", "alpha"), [(20, None), (20, 10.0), (64, 16.0)])
def test_ranks_above_a_dimension_are_capped(
    tmp_path: Path, llama: tuple[Path, Path], rank: int, alpha: float | None
) -> None:
    """PEFT gives capped modules the same scale, and the merged weights are right."""
    out = tmp_path / "out"
    result = extract(*llama, out, rank=rank, alpha=alpha, dtype="fp32")
    for row in result.report.modules:
        assert row.rank == min(rank, *row.shape)
        assert row.relative_error < 4 * checks.UNIT / 0.05
    assert result.config["r"] == max(row.rank for row in result.report.modules)
    assert any("rank_pattern" in key and value for key, value in result.config.items())
    model = checks.load_peft(llama[0], out)
    scale = 1.0 if alpha is None else alpha / rank
    assert checks.scalings(model) == {name: pytest.approx(scale) for name in _names(llama)}
    merged, after = model.merge_and_unload().state_dict(), tiny_models.read_tensors(llama[1])
    for row in result.report.modules:
        key = f"{row.name}.weight"
        assert checks.distance(merged[key], after[key]) < 8 * checks.UNIT / 0.05 * row.delta_norm
    (warning,) = [text for text in result.report.summary.warnings if "all they have" in text]
    capped = [row for row in result.report.modules if row.rank < rank]
    assert f"rank {rank} exceeds {len(capped)} modules" in warning
    assert capped[0].name in warning


def test_a_layer_that_did_not_change_gets_nothing(tmp_path: Path) -> None:
    base = tiny_models.build("llama", tmp_path / "base", seed=1)
    modules = r"layers\.(0|2)\..*_proj"
    tuned = tiny_models.perturb(
        base, tmp_path / "tuned", rank=2, seed=2, scale=0.1, modules=modules
    )
    report = extract(base, tuned, tmp_path / "out", rank=2).report
    model = checks.load_peft(base, tmp_path / "out")
    assert not any("layers.1." in name for name in checks.scalings(model))
    assert len(report.modules) == 14
    found = checks.outcomes(report)
    still = [name for name in found if "layers.1." in name]
    assert {found[name] for name in still} == {"unchanged"}
    assert {checks.tensor(report, name).why for name in still} == {"equal on both sides"}


@pytest.mark.parametrize("family", ["qwen2", "gemma3_text"])
def test_tied_embeddings_are_left_out(tmp_path: Path, family: str) -> None:
    """The head has no weight of its own: the embedding is listed once, and PEFT adds nothing."""
    base = tiny_models.build(family, tmp_path / "base", seed=1)
    tuned = tiny_models.perturb(base, tmp_path / "tuned", rank=2, seed=2, scale=0.1, modules="w")
    report = extract(base, tuned, tmp_path / "out", rank=2).report
    row = checks.tensor(report, "model.embed_tokens.weight")
    assert (row.outcome.value, row.why) == ("left_out", "embedding")
    assert not [name for name in checks.outcomes(report) if "lm_head" in name]
    assert [text for text in report.summary.warnings if "embed_tokens" in text]
    checks.load_peft(base, tmp_path / "out")
    checks.refused(
        UsageError,
        "'lm_head' matches no module",
        lambda: extract(base, tuned, tmp_path / "no", target_modules="lm_head"),
        tmp_path,
    )


def test_experts_can_be_left_out(tmp_path: Path) -> None:
    stem = "model.layers.0.mlp"
    shapes: dict[str, tuple[int, ...]] = {}
    for i in range(3):
        shapes |= {f"{stem}.experts.{i}.{kind}_proj.weight": (24, 16) for kind in ("gate", "up")}
        shapes[f"{stem}.experts.{i}.down_proj.weight"] = (16, 24)
    shapes |= {"model.layers.0.self_attn.q_proj.weight": (16, 16), f"{stem}.gate.weight": (3, 16)}
    case = checks.noise_pair(tmp_path, shapes)
    for side in case["paths"]:
        tiny_models.edit_config(side, model_type="qwen2_moe", architectures=["Qwen2MoeForCausalLM"])
    report = extract(*case["paths"], tmp_path / "out", rank=2, experts=False).report
    assert [row.name for row in report.modules] == ["model.layers.0.self_attn.q_proj"]
    whys = {row.name: row.why for row in report.tensors}
    assert {whys[name] for name in shapes if "experts" in name} == {"experts are skipped"}
    assert whys[f"{stem}.gate.weight"].startswith("router")
    both = extract(*case["paths"], tmp_path / "both", rank=2).report
    assert {row.name: row.experts for row in both.modules} == {
        "model.layers.0.self_attn.q_proj": 0,
        f"{stem}.experts.gate_up_proj": 3,
        f"{stem}.experts.down_proj": 3,
    }


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"target_modules": "z_proj"}, "'z_proj' matches no module.*q_proj"),
        ({"target_modules": "re:("}, "no regular expression"),
        ({"layers": "0-9"}, "no layer 3"),
        ({"layers": "x"}, "numbers such as"),
        ({"alpha": 0.0}, "--alpha 0.0"),
        ({"alpha": float("nan")}, "--alpha nan"),
        ({"dtype": "int8"}, "--dtype int8: expected auto, bf16"),
        ({"io": "direct"}, "--io direct"),
        ({"oversampling": -1}, "--oversampling -1"),
        ({"power_iterations": 101}, "--power-iterations 101"),
        ({"seed": -1}, "--seed -1"),
        ({"threads": 0}, "threads 0"),
        ({"rank": 0}, "--rank 0: expected a whole number of at least 1"),
        ({"rank": -3}, "--rank -3: expected"),
        ({"rank": 2.5}, "--rank 2.5: expected"),
        ({"rank": "abc"}, "--rank abc: expected"),
        ({"rank": ""}, "--rank : expected"),
        ({"rank": "auto", "max_rank": 0}, "--max-rank 0: expected"),
        ({"rank": "energy=1.5"}, "--rank energy=1.5: expected a share between 0 and 1"),
        ({"save_whole": "some"}, "--save-whole .some.: expected one of none, norms"),
        ({"moe_layout": "flat"}, "--moe-layout flat: expected auto, peft"),
    ],
)
def test_options_that_cannot_be_used(
    tmp_path: Path, llama: tuple[Path, Path], options: dict[str, Any], pattern: str
) -> None:
    call = {"rank": 2} | options
    checks.refused(UsageError, pattern, lambda: extract(*llama, tmp_path / "out", **call), tmp_path)
    checks.refused(UsageError, pattern, lambda: extract(*llama, **call), tmp_path)


def test_a_selection_of_nothing(tmp_path: Path, llama: tuple[Path, Path]) -> None:
    checks.refused(
        NothingToAdaptError,
        "no linear layer is left",
        lambda: extract(*llama, tmp_path / "out", exclude="attention,mlp"),
        tmp_path,
    )


def test_rank_as_text_and_power_iterations(tmp_path: Path, llama: tuple[Path, Path]) -> None:
    one = extract(*llama, rank="4", power_iterations=0, oversampling=0)
    assert {row.rank for row in one.report.modules} == {4}


def test_formats(tmp_path: Path, llama: tuple[Path, Path]) -> None:
    with pytest.raises(UsageError, match="--format onnx: expected peft, gguf, both"):
        extract(*llama, tmp_path / "out", format="onnx")
    with pytest.raises(UsageError, match="use --format both"):
        extract(*llama, tmp_path / "out", format="gguf", exact=True, patch=True)
    assert not (tmp_path / "out").exists()

"""Model cards and terminal tables."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from rich.console import Console

import lora_files as files
from loragraft.inspection import inspect
from loragraft.report.card import model_card, public_name
from loragraft.report.inspection_table import inspection_table
from loragraft.report.kinds import by_kind, gather, left_out
from loragraft.report.model import (
    ModuleReport,
    Outcome,
    Report,
    Summary,
    TensorReport,
    count_outcomes,
)
from loragraft.report.tables import extraction_table, verification_table

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import RenderableType

CONFIG = {"base_model_name_or_path": "HuggingFaceTB/SmolLM2-135M", "task_type": "CAUSAL_LM"}


def _module(kind: str, layer: int, **figures: Any) -> ModuleReport:
    values: dict[str, Any] = {
        "name": f"model.layers.{layer}.self_attn.{kind}",
        "kind": kind,
        "layer": layer,
        "shape": (8, 4),
        "rank": 2,
        "alpha": 2.0,
        "delta_norm": 1.0,
        "weight_norm": 10.0,
        "energy": 0.75,
        "relative_error": 0.5,
        "optimal_error": 0.4,
        "rounding_floor": 0.1,
        "bit_exact": 0.5,
        "dtype": "F16",
        "seconds": 0.25,
    }
    return ModuleReport(**(values | figures))


def _report(**changes: Any) -> Report:
    modules = (
        _module("q_proj", 0),
        _module(
            "q_proj", 1, delta_norm=2.0, relative_error=0.1, energy=0.99, rank=4, shape=(24, 4)
        ),
        _module("v_proj", 0, optimal_error=None, bit_exact=None),
    )
    tensors = (
        *(
            TensorReport(f"{module.name}.weight", (8, 4), "BF16", "BF16", Outcome.ADAPTED)
            for module in modules
        ),
        TensorReport("a.weight", (4,), "BF16", "BF16", Outcome.LEFT_OUT, "norm", 0.25),
        TensorReport("b.weight", (4,), "BF16", "BF16", Outcome.LEFT_OUT, "norm", 0.5),
        TensorReport("c.weight", (4,), "BF16", None, Outcome.LEFT_OUT, "only in BASE"),
        TensorReport("d.weight", (4,), "BF16", "BF16", Outcome.UNCHANGED, "the same bits"),
    )
    summary = Summary(
        "Kept 93.18% of the change.",
        count_outcomes(tensors),
        100,
        50,
        1.5,
        0.9,
        0.3,
        warnings=("the tokenizers of /home/me/base and /home/me/tuned differ",),
    )
    inputs = {
        "base": "/home/me/models/base",
        "tuned": "/home/me/models/tuned",
        "rank": 16,
        "layers": None,
        "options": {"seed": 0, "output": "/scratch/out dir/adapter"},
    }
    return replace(Report("extract", inputs, summary, tensors, modules), **changes)


def _shown(renderable: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(renderable)
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


def _row(text: str, first: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.split()[:1] == [first]]
    return line.split()


def _front_matter(card: str) -> dict[str, Any]:
    opening, text, _ = card.split("---\n", 2)
    assert opening == ""
    matter = yaml.safe_load(text)
    assert isinstance(matter, dict)
    return matter


def test_figures_by_kind() -> None:
    q, v = by_kind(_report().modules)
    assert (q.kind, q.modules, q.ranks) == ("q_proj", 2, (2, 4))
    # Σ‖ΔW‖² = 1 + 4, Σ residual² = 0.25 + 0.04
    assert q.energy == pytest.approx(1 - 0.29 / 5)
    assert q.error == pytest.approx((0.29 / 5) ** 0.5)
    assert q.lowest_energy == 0.75
    assert q.over_optimum == pytest.approx(1.25)
    assert q.bit_exact == pytest.approx(0.5)
    assert q.seconds == 0.5
    assert (v.over_optimum, v.bit_exact) == (None, None)
    assert gather("all", _report().modules).modules == 3


def test_bit_exact_share_is_weighted_by_size() -> None:
    modules = [_module("q", 0, bit_exact=1.0), _module("q", 1, bit_exact=0.0, shape=(24, 4))]
    assert gather("q", modules).bit_exact == 0.25


def test_noise_is_no_optimum() -> None:
    assert gather("q", [_module("q", 0, optimal_error=1e-9)]).over_optimum is None


def test_left_out_by_reason() -> None:
    norm, lone = left_out(_report().tensors)
    assert (norm.why, norm.tensors, norm.largest_change) == ("norm", 2, 0.5)
    assert (lone.why, lone.tensors, lone.largest_change) == ("only in BASE", 1, None)


@pytest.mark.parametrize("base", ["owner/name", '/home/me/base: a "b"\n- c', "yes", "~/x/llama"])
def test_card_front_matter(base: str) -> None:
    matter = _front_matter(model_card(_report(), {**CONFIG, "base_model_name_or_path": base}))
    assert matter["base_model"] == public_name(base)
    assert matter["library_name"] == "peft"
    assert matter["tags"] == ["lora", "loragraft"]


def test_card_states_the_figures() -> None:
    card = model_card(_report(), CONFIG)
    assert "| q_proj | 2 | 2–4 | 94.20% | 75.00% | 24.083% | 1.2500 |" in card
    assert "| v_proj | 1 | 2 | 75.00% | 75.00% | 50.000% | – |" in card
    assert "3 adapted, 1 unchanged, 3 left out" in card
    assert 'AutoModelForCausalLM.from_pretrained("HuggingFaceTB/SmolLM2-135M")' in card
    assert "| rank | `16` |" in card
    assert "| seed | `0` |" in card
    assert "layers" not in card.split("## How it was made")[1].split("## How to use it")[0]


def test_card_tells_nothing_of_the_machine() -> None:
    config = {"base_model_name_or_path": "/home/me/models/base"}
    card = model_card(_report(), config)
    for secret in ("/home", "/scratch", "/models"):
        assert secret not in card
    assert "base and tuned differ" in card
    assert "| tuned | `tuned` |" in card


def test_card_is_not_broken_by_names() -> None:
    report = _report(modules=(_module("q|`<b>\n", 0),), inputs={"base": "x`|\n# y"})
    card = model_card(report, {"base_model_name_or_path": None})
    assert "<b>" not in card
    assert "\n# y" not in card
    (row,) = [line for line in card.splitlines() if line.startswith("| q")]
    assert row.replace("\\|", "").count("|") == 8


def test_card_of_nothing() -> None:
    assert "No module was adapted." in model_card(_report(modules=()), {})


@pytest.mark.parametrize(
    ("reference", "public"),
    [
        ("owner/name", "owner/name"),
        ("owner/name@main", "owner/name@main"),
        ("/home/me/model/", "model"),
        ("./model", "model"),
        ("C:\\models\\llama", "llama"),
        ("a/b/c", "c"),
        ("/", "model"),
        (16, "16"),
    ],
)
def test_public_names(reference: object, public: str) -> None:
    assert public_name(reference) == public


def test_extraction_table() -> None:
    text = _shown(extraction_table(_report()))
    assert _row(text, "q_proj") == [
        "q_proj", "2", "2–4", "94.20%", "75.00%", "24.083%", "1.2500", "50.00%", "0.50",
    ]  # fmt: skip
    assert _row(text, "v_proj")[-3:] == ["–", "–", "0.25"]
    assert _row(text, "all")[1] == "3"
    assert "Tensors: 7 in all, 3 adapted, 1 unchanged, 3 left out" in text
    assert "left out: 2 × norm, changed by at most 50.000%" in text
    assert "left out: 1 × only in BASE\n" in text
    assert "! the tokenizers" in text
    assert "Kept 93.18% of the change." in text


def test_verification_table_tells_the_claims() -> None:
    claims = {"checked": 3, "worst_difference": 2e-7, "module": "x"}
    text = _shown(verification_table(_report(command="verify", extra={"claims": claims})))
    assert "3 modules checked, largest difference in relative error 2.00e-07" in text
    assert "Claims" not in _shown(verification_table(_report(command="verify")))


def test_markup_in_names_is_text() -> None:
    text = _shown(extraction_table(_report(modules=(_module("[red]q[/red]", 0),))))
    assert "[red]q[/red]" in text


def test_table_without_modules() -> None:
    text = _shown(extraction_table(_report(modules=())))
    assert "q_proj" not in text
    assert "Tensors: 7 in all" in text


def test_inspection_tables(tmp_path: Path) -> None:
    base = files.write_checkpoint(tmp_path / "base", files.random_weights())
    text = _shown(inspection_table(inspect(base)))
    assert _row(text, "q_proj") == ["q_proj", "attention", "24", "×", "24", "2", "1,152"]
    assert "Other tensors: 3 norm, 1 embedding" in text
    factors = files.random_factors((files.Q0, files.K1), 4)
    factors[files.K1] = tuple(0 * factor for factor in factors[files.K1])  # type: ignore[assignment]
    adapter = files.write_adapter(tmp_path / "adapter", factors, alpha=8)
    text = _shown(inspection_table(inspect(adapter)))
    assert _row(text, "q_proj")[:5] == ["q_proj", "1", "4", "8", "2"]
    assert "4 (× 2)" in text
    assert "owner/toy" in text
    assert "! Modules that change nothing" in text

"""Norms, embeddings, heads, routers and biases in an adapter, as the real PEFT loads them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText

import tiny_models
from loragraft.adapter.engines import engine_warnings
from loragraft.adapter.whole_plan import SaveWhole, offers
from loragraft.tensor_bytes import TensorBytes
from whole_files import (
    DEPRECATED,
    build,
    candidates_of,
    check,
    make_plan,
    tune,
    unchanged,
    write_adapter,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from whole_files import Pair

pytestmark = pytest.mark.filterwarnings(f"ignore:{DEPRECATED}:FutureWarning")
Q = "model.layers.0.self_attn.q_proj"
ADAPTED = {
    "gpt2": ("transformer.h.0.attn.c_attn", "transformer.h.1.mlp.c_proj"),
    "mamba": ("backbone.layers.0.mixer.in_proj",),
}


def scale(pattern: str, factor: float = 1.3) -> Callable[[torch.nn.Module], object]:
    """Multiply every parameter that the expression finds, and move it off zero."""

    def change(model: torch.nn.Module) -> None:
        for name, parameter in model.named_parameters():
            if re.search(pattern, name):
                parameter.mul_(factor).add_(0.05)

    return change


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Pair]:
    def make(family: str, pattern: str, **config: Any) -> Pair:
        base = build(family, tmp_path / "base", **config)
        return tune(base, tmp_path / "tuned", ADAPTED.get(family, (Q,)), scale(pattern))

    return make


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text", "qwen3_moe"])
def test_norms(
    family: str,
    make: Callable[..., Pair],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair = make(family, r"norm|ln_")
    plan = make_plan(pair, SaveWhole.NORMS)
    assert plan.refused == {}
    assert all("norm" in name or "ln_" in name for name in plan.saved)
    # One entry for all blocks.
    assert len(plan.config["modules_to_save"]) < len(plan.saved)
    assert set(plan.config) == {"modules_to_save"}
    check(pair, write_adapter(tmp_path / "out", pair, plan), monkeypatch)


def test_norms_of_some_blocks_are_written_for_all(
    make: Callable[..., Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = make("llama", r"layers\.1\.input_layernorm")
    plan = make_plan(pair, SaveWhole.NORMS)
    assert plan.config == {"modules_to_save": ["input_layernorm"]}
    assert set(plan.saved) == {"model.layers.1.input_layernorm.weight"}
    assert [tensor.key for tensor in plan.tensors] == [
        f"base_model.model.model.layers.{i}.input_layernorm.weight" for i in range(2)
    ]
    check(pair, write_adapter(tmp_path / "out", pair, plan), monkeypatch)


def test_weight_and_bias_of_a_norm_go_together(make: Callable[..., Pair]) -> None:
    plan = make_plan(make("gpt2", r"ln_f\.weight"), SaveWhole.NORMS)
    keys = [f"base_model.model.transformer.ln_f.{last}" for last in ("bias", "weight")]
    assert [tensor.key for tensor in plan.tensors] == keys
    assert set(plan.saved) == {"transformer.ln_f.weight"}


def test_embeddings_and_head_of_their_own(
    make: Callable[..., Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = make("llama", r"embed_tokens|lm_head|norm")
    plan = make_plan(pair, SaveWhole.EMBEDDINGS)
    assert plan.config == {"modules_to_save": ["lm_head", "model.embed_tokens"]}
    assert set(plan.saved) == {"lm_head.weight", "model.embed_tokens.weight"}
    everything = make_plan(pair, SaveWhole.ALL)
    assert set(everything.saved) > set(plan.saved)
    check(pair, write_adapter(tmp_path / "out", pair, everything), monkeypatch)


@pytest.mark.parametrize(
    ("family", "embedding"),
    [
        ("qwen2", "model.embed_tokens"),
        ("gpt2", "transformer.wte"),
        ("gemma3_text", "model.embed_tokens"),
    ],
)
def test_tied_embedding(
    family: str,
    embedding: str,
    make: Callable[..., Pair],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair = make(family, r"embed_tokens|wte|wpe")
    plan = make_plan(pair, SaveWhole.EMBEDDINGS)
    assert plan.config["ensure_weight_tying"] is True
    assert {"lm_head", embedding} <= set(plan.config["modules_to_save"])
    merged = check(pair, write_adapter(tmp_path / "out", pair, plan), monkeypatch)
    assert merged.lm_head.weight is merged.get_input_embeddings().weight


def test_head_that_tuning_untied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def untie(model: Any) -> None:
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(1.3 * model.lm_head.weight)

    pair = tune(build("qwen2", tmp_path / "base"), tmp_path / "tuned", (Q,), untie)
    plan = make_plan(pair, SaveWhole.EMBEDDINGS)
    assert plan.config == {"modules_to_save": ["lm_head"]}
    assert set(plan.saved) >= {"lm_head.weight"}
    adapter = write_adapter(tmp_path / "out", pair, plan)
    check(pair, adapter, monkeypatch, warning="(Model has|Input and output)")


@pytest.mark.parametrize("family", ["gpt2", "qwen2", "phi", "gpt_oss"])
def test_biases(
    family: str, make: Callable[..., Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = make(family, r"(attn|mlp|router|proj|dense|fc\d).*\.bias$")
    plan = make_plan(pair, SaveWhole.ALL)
    assert plan.config["bias"] == "all"
    first = pair.modules[0]
    keys = {tensor.key for tensor in plan.tensors}
    assert f"base_model.model.{first}.base_layer.bias" in keys
    check(pair, write_adapter(tmp_path / "out", pair, plan), monkeypatch)


def test_bias_of_adapted_layers_alone(
    make: Callable[..., Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = make("qwen2", r"layers\.0\.self_attn\.q_proj\.bias$")
    plan = make_plan(pair, SaveWhole.ALL)
    assert plan.config == {"bias": "lora_only"}
    assert make_plan(pair, SaveWhole.NORMS).config == {}
    check(pair, write_adapter(tmp_path / "out", pair, plan), monkeypatch)


@pytest.mark.parametrize(
    ("family", "pattern"),
    [("qwen3_moe", r"mlp\.gate\."), ("gpt_oss", r"mlp\.router\."), ("phi", r"lm_head")],
)
def test_routers_and_heads(
    family: str,
    pattern: str,
    make: Callable[..., Pair],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair = make(family, pattern)
    plan = make_plan(pair, SaveWhole.ALL)
    assert all(re.search(pattern, name) for name in plan.saved)
    assert plan.refused == {}
    check(pair, write_adapter(tmp_path / "out", pair, plan), monkeypatch)


def test_convolutions_and_what_cannot_be_carried(
    make: Callable[..., Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = make("mamba", r"conv1d|norm")
    plan = make_plan(pair, SaveWhole.ALL)
    assert "mixer.conv1d" in plan.config["modules_to_save"]
    assert plan.refused == {}
    check(pair, write_adapter(tmp_path / "out", pair, plan), monkeypatch)


def test_parameters_of_modules_with_linear_layers_are_refused(
    make: Callable[..., Pair],
) -> None:
    plan = make_plan(make("mamba", r"A_log|mixer\.D$"), SaveWhole.ALL)
    assert plan.saved == {}
    assert set(plan.refused) == {
        f"backbone.layers.{i}.mixer.{last}" for i in range(2) for last in ("A_log", "D")
    }
    assert all("holds linear layers" in why for why in plan.refused.values())


def test_layers_left_out_by_choice_stay_out(make: Callable[..., Pair]) -> None:
    plan = make_plan(make("llama", r"down_proj|embed_tokens"), SaveWhole.ALL)
    assert set(plan.saved) == {"model.embed_tokens.weight"}


def test_nothing_is_carried_unless_asked(make: Callable[..., Pair]) -> None:
    pair = make("llama", r"norm|embed_tokens")
    plan = make_plan(pair, SaveWhole.NONE)
    assert plan.tensors == ()
    assert plan.config == {}
    assert plan.saved == {}
    with TensorBytes() as reader:
        told = offers(candidates_of(pair), SaveWhole.NONE, unchanged(pair), reader)
        assert offers(candidates_of(pair), SaveWhole.ALL, unchanged(pair), reader) == []
    norms, embeddings = told
    assert norms == (
        "--save-whole norms would carry model.layers.0.input_layernorm.weight (whole, by"
        " modules_to_save) and 4 more"
    )
    assert "--save-whole embeddings would carry model.embed_tokens.weight" in embeddings


@pytest.mark.parametrize("renamed", [False, True])
def test_wrapped_model(renamed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A multimodal model; files of older and newer transformers name its modules differently."""
    base = tiny_models.build_gemma3_vision(tmp_path / "base", seed=3)
    q = "model.language_model.layers.0.self_attn.q_proj"
    change = scale(r"norm|embed_tokens|projector")
    pair = tune(base, tmp_path / "tuned", (q,), change, AutoModelForImageTextToText)
    if renamed:
        tensors = tiny_models.read_tensors(pair.tuned)
        new = {
            re.sub(r"^language_model\.model\.", "model.language_model.", n): t
            for n, t in tensors.items()
        }
        new = {re.sub(r"^(vision_tower|multi_modal)", r"model.\1", n): t for n, t in new.items()}
        save_file(new, pair.tuned / "model.safetensors", metadata={"format": "pt"})
    plan = make_plan(pair, SaveWhole.ALL)
    assert plan.refused == {}
    assert set(plan.config["modules_to_save"]) >= {
        "lm_head",
        "model.language_model.embed_tokens",
        "model.multi_modal_projector",
        "input_layernorm",
    }
    assert not any("fc1" in tensor.key for tensor in plan.tensors)
    adapter = write_adapter(tmp_path / "out", pair, plan)
    tokens = torch.arange(20, 60).reshape(2, 20)
    check(pair, adapter, monkeypatch, auto=AutoModelForImageTextToText, tokens=tokens)


def test_engines(make: Callable[..., Pair]) -> None:
    pair = make("llama", r"norm|embed_tokens")
    norms = make_plan(pair, SaveWhole.NORMS)
    everything = make_plan(pair, SaveWhole.ALL)
    config = {"r": 4, "lora_alpha": 4, "bias": "none"}
    assert engine_warnings(config) == []
    vllm, sglang, llama = engine_warnings(config | dict(everything.config))
    assert vllm == "vLLM refuses the adapter for its whole modules (modules_to_save)"
    assert "SGLang does not apply" in sglang
    assert "llama.cpp's converter refuses" in llama
    *_, llama = engine_warnings(config | dict(norms.config), [t.key for t in norms.tensors])
    assert "copies the norms, which llama.cpp then ignores" in llama


def test_candidates_do_not_depend_on_change(make: Callable[..., Pair]) -> None:
    pair = make("llama", r"nothing")
    found = candidates_of(pair)
    assert {module.name for module in found.modules} >= {"model.norm", "lm_head"}
    assert make_plan(pair, SaveWhole.ALL).tensors == ()
    assert "model.norm.weight" in unchanged(pair)

"""What is carried beside factors: merged as the real PEFT merges it, and verified."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

import tiny_models
from loragraft.errors import NonFiniteError
from loragraft.merging import merge
from loragraft.verification import verify
from whole_files import DEPRECATED, VOCABULARY, build, tune
from whole_merges import (
    Q,
    check_all,
    check_merge,
    move_rows,
    pair_of,
    peft_merged,
    refused,
    rewrite,
    scale,
    taken,
)

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.filterwarnings(f"ignore:{DEPRECATED}:FutureWarning")


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text", "qwen3_moe"])
def test_norms(family: str, tmp_path: Path) -> None:
    check_all(pair_of(tmp_path, family, scale("norm|ln_")), tmp_path, "norms")


@pytest.mark.parametrize("family", ["gpt2", "qwen2", "phi", "gpt_oss"])
def test_biases(family: str, tmp_path: Path) -> None:
    pattern = r"(attn|mlp|router|proj|dense|fc\d).*\.bias$"
    pair = pair_of(tmp_path, family, scale(pattern))
    checked = check_all(pair, tmp_path)
    assert "over the base's, by bias" in {row.why for row in checked.tensors}


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3_text", "gpt2"])
def test_token_rows(family: str, tmp_path: Path) -> None:
    checked = check_all(pair_of(tmp_path, family, move_rows()), tmp_path, "embeddings")
    assert "4 rows, by trainable_token_indices" in {row.why for row in checked.tensors}


def test_token_rows_of_embedding_and_head(tmp_path: Path) -> None:
    checked = check_all(pair_of(tmp_path, "llama", move_rows(5, 40)), tmp_path)
    assert checked.summary.counts["saved_whole"] == 2


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "gemma3_text"])
def test_whole_embeddings(family: str, tmp_path: Path) -> None:
    check_all(pair_of(tmp_path, family, scale("embed_tokens|wte|lm_head")), tmp_path)


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss"])
def test_beside_experts(family: str, tmp_path: Path) -> None:
    def change(model: Any) -> None:
        for name, parameter in model.named_parameters():
            if "experts" in name and parameter.dim() == 3:
                generator = torch.Generator().manual_seed(len(name))
                left = torch.randn(*parameter.shape[:2], 1, generator=generator)
                right = torch.randn(*parameter.shape[::2], generator=generator)[:, None]
                parameter.add_(0.1 * left @ right)
        scale(r"norm|router\.|mlp\.gate\.|embed_tokens")(model)

    checked = check_all(pair_of(tmp_path, family, change), tmp_path)
    assert any(module.experts for module in checked.modules)


def test_convolutions(tmp_path: Path) -> None:
    base = build("mamba", tmp_path / "base")
    modules = ("backbone.layers.0.mixer.in_proj",)
    check_all(tune(base, tmp_path / "tuned", modules, scale("conv1d|norm")), tmp_path)


@pytest.mark.parametrize("code", ["bf16", "fp16"])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_numbers_are_rounded_to_the_dtype_of_the_base(
    family: str, code: str, tmp_path: Path
) -> None:
    def change(model: Any) -> None:
        move_rows()(model)
        scale(r"norm|\.bias")(model)

    pair = pair_of(tmp_path, family, change)
    taken(pair, tmp_path / "out")
    dtype = tiny_models.DTYPES[code]
    narrow = AutoModelForCausalLM.from_pretrained(pair.base, dtype=dtype)
    narrow.save_pretrained(tmp_path / "narrow")
    merge(tmp_path / "narrow", tmp_path / "out", tmp_path / "merged")
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=dtype).state_dict()
    want = peft_merged(tmp_path / "narrow", tmp_path / "out", dtype)
    for name, value in want.items():
        assert ours[name].dtype == dtype
        if name != f"{Q}.weight":
            assert torch.equal(ours[name], value), name


def test_another_dtype_is_rounded_once(tmp_path: Path) -> None:
    pair = pair_of(tmp_path, "llama", scale("norm|embed_tokens"))
    taken(pair, tmp_path / "out")
    merge(pair.base, tmp_path / "out", tmp_path / "merged", dtype="bf16")
    ours, tuned = (load_file(d / "model.safetensors") for d in (tmp_path / "merged", pair.tuned))
    for name in ("model.norm.weight", "model.embed_tokens.weight"):
        assert torch.equal(ours[name], tuned[name].to(torch.bfloat16))


def test_a_number_that_overflows_is_refused(tmp_path: Path) -> None:
    def change(model: Any) -> None:
        model.model.norm.weight[3] = 1e5

    pair = pair_of(tmp_path, "llama", change)
    taken(pair, tmp_path / "out")
    with pytest.raises(NonFiniteError, match=r"norm\.weight holds 1e\+05, which overflows F16"):
        merge(pair.base, tmp_path / "out", tmp_path / "merged", dtype="fp16")
    assert not (tmp_path / "merged").exists()


def test_a_head_in_the_file_of_a_tied_model_follows(tmp_path: Path) -> None:
    """Loaders ignore it, others may not."""
    pair = pair_of(tmp_path, "qwen2", move_rows())
    taken(pair, tmp_path / "out")
    path = pair.base / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, path, metadata={"format": "pt"})
    merge(pair.base, tmp_path / "out", tmp_path / "merged")
    ours = load_file(tmp_path / "merged" / "model.safetensors")
    assert torch.equal(ours["lm_head.weight"], ours["model.embed_tokens.weight"])
    check_merge(pair.base, tmp_path / "out", tmp_path / "again")


@pytest.mark.parametrize("many", [False, True])
def test_a_vocabulary_that_grew(many: bool, tmp_path: Path) -> None:
    def change(model: Any) -> None:
        model.resize_token_embeddings(VOCABULARY + 3, mean_resizing=False)
        if many:
            scale("embed_tokens|lm_head")(model)

    pair = pair_of(tmp_path, "llama", change)
    report = taken(pair, tmp_path / "out")
    assert verify(pair.base, pair.tuned, tmp_path / "out").summary.counts == report.summary.counts
    what = r"it is of shape \[515, 16\]" if many else "it replaces row 514"
    pattern = rf"lm_head.*{what}.*call resize_token_embeddings\(515\) on the base and save it"
    refused(pair.base, tmp_path / "out", tmp_path / "merged", pattern)
    grown = AutoModelForCausalLM.from_pretrained(pair.base)
    grown.resize_token_embeddings(VOCABULARY + 3, mean_resizing=False)
    grown.save_pretrained(tmp_path / "grown")
    check_merge(tmp_path / "grown", tmp_path / "out", tmp_path / "merged")


def test_a_head_that_tuning_untied(tmp_path: Path) -> None:
    def untie(model: Any) -> None:
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(1.3 * model.lm_head.weight)

    pair = pair_of(tmp_path, "qwen2", untie)
    report = taken(pair, tmp_path / "out")
    checked = verify(pair.base, pair.tuned, tmp_path / "out")
    assert checked.summary.counts == report.summary.counts
    pattern = "lm_head.weight .the base has one matrix for embedding and head"
    refused(pair.base, tmp_path / "out", tmp_path / "merged", pattern)


def test_a_head_that_tuning_tied(tmp_path: Path) -> None:
    base = build("llama", tmp_path / "base")
    pair = tune(base, tmp_path / "tuned", (Q,), scale("norm"))
    path = pair.tuned / "model.safetensors"
    tensors = load_file(path)
    del tensors["lm_head.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    tiny_models.edit_config(pair.tuned, tie_word_embeddings=True)
    report = taken(pair, tmp_path / "out")
    assert report.summary.counts["saved_whole"] == 6
    assert verify(pair.base, pair.tuned, tmp_path / "out").summary.counts == report.summary.counts
    check_merge(pair.base, tmp_path / "out", tmp_path / "merged")


@pytest.mark.parametrize("renamed", [False, True])
def test_wrapped_model(renamed: bool, tmp_path: Path) -> None:
    """A multimodal model; files of older and newer transformers name its modules differently."""
    base = tiny_models.build_gemma3_vision(tmp_path / "base", seed=3)
    q = "model.language_model.layers.0.self_attn.q_proj"
    change = scale(r"norm|embed_tokens|projector")
    auto = AutoModelForImageTextToText
    pair = tune(base, tmp_path / "tuned", (q,), change, auto)
    if renamed:
        new = {
            re.sub(
                r"^(vision_tower|multi_modal)",
                r"model.\1",
                re.sub(r"^language_model\.model\.", "model.language_model.", name),
            ): tensor
            for name, tensor in tiny_models.read_tensors(pair.tuned).items()
        }
        save_file(new, pair.tuned / "model.safetensors", metadata={"format": "pt"})
    report = taken(pair, tmp_path / "out")
    assert report.summary.counts["saved_whole"]
    checked = verify(pair.base, pair.tuned, tmp_path / "out")
    assert checked.summary.counts == report.summary.counts
    assert checked.summary.warnings == ()
    check_merge(pair.base, tmp_path / "out", tmp_path / "merged", auto=auto)


@pytest.mark.parametrize(
    ("key", "shape", "why"),
    [
        ("model.norm.weight", (9,), r"of shape \[9\], and the base's of \[16\]"),
        ("model.layers.9.input_layernorm.weight", (16,), "the base has no tensor of that name"),
        ("model.layers.0.mlp.up_proj.base_layer.bias", (16,), "PEFT finds no layer of that name"),
        ("model.embed_tokens.base_layer.weight", (4, 4), "PEFT loads it over the base's, or not"),
    ],
)
def test_what_has_no_place_is_refused(
    key: str, shape: tuple[int, ...], why: str, tmp_path: Path
) -> None:
    pair = pair_of(tmp_path, "llama", scale("norm"))
    taken(pair, tmp_path / "out", "norms")
    full = f"base_model.model.{key}"
    rewrite(tmp_path / "out", lambda tensors: tensors.update({full: torch.ones(shape)}))
    refused(pair.base, tmp_path / "out", tmp_path / "merged", rf"{re.escape(full)} \(.*{why}")
    checked = verify(pair.base, pair.tuned, tmp_path / "out")
    assert full in checked.summary.warnings[0] or checked.summary.counts["left_out"]
    assert checked.summary.warnings


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {"modules_to_save": ["lm_head", "norm"], "bias": "all"}),
        ("qwen2", {"bias": "lora_only"}),
        ("gpt2", {"bias": "all", "target_modules": ["c_attn"], "fan_in_fan_out": True}),
        (
            "gpt2",
            {
                "modules_to_save": ["ln_f", "wpe"],
                "target_modules": ["c_attn", "c_fc"],
                "fan_in_fan_out": True,
            },
        ),
        ("llama", {"trainable_token_indices": [5, 2, 9]}),
        ("qwen2", {"trainable_token_indices": {"embed_tokens": [5, 2, 9]}, "bias": "all"}),
        ("qwen2", {"modules_to_save": ["embed_tokens", "lm_head"], "ensure_weight_tying": True}),
        ("phi", {"modules_to_save": ["lm_head"], "bias": "all"}),
    ],
)
def test_adapters_that_peft_wrote(family: str, settings: dict[str, Any], tmp_path: Path) -> None:
    base = build(family, tmp_path / "base")
    config = LoraConfig(**{"r": 4, "target_modules": ["q_proj", "v_proj"], **settings})
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(tmp_path / "adapter")
    check_merge(base, tmp_path / "adapter", tmp_path / "merged")


def test_one_of_two_tied_matrices_is_refused(tmp_path: Path) -> None:
    """PEFT unties them, which no file of the base could say."""
    pair = pair_of(tmp_path, "qwen2", scale("embed_tokens"))
    taken(pair, tmp_path / "out")
    head = "base_model.model.lm_head.weight"
    rewrite(tmp_path / "out", lambda tensors: tensors[head].add_(1.0))
    both = r"embed_tokens\.weight \(the base has one matrix.* for embedding and head"
    refused(pair.base, tmp_path / "out", tmp_path / "merged", both)
    rewrite(tmp_path / "out", lambda tensors: tensors.pop(head))
    refused(pair.base, tmp_path / "out", tmp_path / "merged", both)


def test_a_module_that_has_factors_too(tmp_path: Path) -> None:
    pair = pair_of(tmp_path, "llama", scale("norm"))
    taken(pair, tmp_path / "out")
    path = tmp_path / "out" / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["modules_to_save"].append("0.self_attn.q_proj")
    path.write_text(json.dumps(config), encoding="utf-8")
    key = f"base_model.model.{Q}.weight"
    rewrite(tmp_path / "out", lambda tensors: tensors.update({key: torch.ones(16, 16)}))
    refused(pair.base, tmp_path / "out", tmp_path / "merged", "the base's has LoRA factors too")


def test_numbers_that_are_no_weights(tmp_path: Path) -> None:
    pair = pair_of(tmp_path, "llama", scale("norm"))
    taken(pair, tmp_path / "out")
    key = "base_model.model.model.norm.weight"
    rewrite(
        tmp_path / "out", lambda tensors: tensors.update({key: torch.ones(16, dtype=torch.int64)})
    )
    why = "it is I64, and the base's is stored as F32"
    refused(pair.base, tmp_path / "out", tmp_path / "merged", why)


def test_rows_in_several_files(tmp_path: Path) -> None:
    pair = pair_of(tmp_path, "llama", move_rows(0, VOCABULARY - 1))
    taken(pair, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(pair.base)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    check_merge(tmp_path / "sharded", tmp_path / "out", tmp_path / "merged")

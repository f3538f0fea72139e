"""Tensor names and shapes to linear layers, roles and block numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import loragraft.architecture.families as families_module
import tiny_models
from loragraft.architecture import Inventory, LinearModule, Role, family_of, take_inventory
from loragraft.architecture.families import load_families, parse_family
from loragraft.checkpoint import Checkpoint, TensorEntry, open_checkpoint
from loragraft.errors import FormatError

DATA = Path(families_module.__file__).parent / "data"


def checkpoint(
    shapes: dict[str, tuple[int, ...]],
    config: dict[str, Any] | None = None,
    dtypes: dict[str, str] | None = None,
) -> Checkpoint:
    """Return a checkpoint that exists in name only."""
    tensors = {
        name: TensorEntry(name, (dtypes or {}).get(name, "BF16"), shape, Path("x"), 0, 0)
        for name, shape in shapes.items()
    }
    return Checkpoint("x", Path(), tensors, (), None, config)


def inventory(*args: Any, **kwargs: Any) -> Inventory:
    return take_inventory(checkpoint(*args, **kwargs))


def the_linear(name: str, model_type: str | None = None) -> LinearModule:
    config = None if model_type is None else {"model_type": model_type}
    (linear,) = inventory({name: (6, 4)}, config).linears
    return linear


KINDS = {
    "llama": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    "mistral": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    "qwen2": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    "gemma3_text": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    "phi": {"q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"},
    "phi3": {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"},
    "gpt_neox": {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"},
    "gpt2": {"c_attn", "c_proj", "c_fc"},
}
UNTIED = {"llama", "mistral", "phi", "phi3", "gpt_neox"}


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_real_models(family: str, tmp_path: Path) -> None:
    """Every matrix that transformers makes a layer of is found, in its orientation."""
    opened = open_checkpoint(tiny_models.build(family, tmp_path / "m", seed=0))
    found = take_inventory(opened)
    tensors = {linear.tensor for linear in found.linears}
    assert tensors | set(found.others) == set(opened.tensors)
    assert not tensors & set(found.others)
    assert {m.kind for m in found.linears if m.role is not Role.HEAD} == KINDS[family]
    heads = [linear for linear in found.linears if linear.role is Role.HEAD]
    assert [(m.name, m.layer, m.shape) for m in heads] == (
        [("lm_head", None, (128, 32))] if family in UNTIED else []
    )
    roles = {linear.role for linear in found.linears if linear.layer is not None}
    assert roles == {Role.ATTENTION, Role.MLP}
    layers = {linear.layer for linear in found.linears} - {None}
    assert layers == set(range(2 if family == "mistral" else 3))
    assert set(found.others.values()) <= {"norm", "bias", "embedding"}
    for linear in found.linears:
        stored = opened.tensors[linear.tensor].shape
        assert linear.transposed == (family == "gpt2")
        assert linear.shape == (stored[::-1] if linear.transposed else stored)


@pytest.mark.parametrize("family", ["qwen2", "phi", "gpt_neox", "gpt2"])
def test_tiny_models_have_biases_that_are_not_zero(family: str, tmp_path: Path) -> None:
    tensors = tiny_models.read_tensors(tiny_models.build(family, tmp_path / "m", seed=0))
    biases = [tensor for name, tensor in tensors.items() if name.endswith("proj.bias")]
    biases += [tensor for name, tensor in tensors.items() if name.endswith("dense.bias")]
    assert all(bias.abs().max() > 0 for bias in biases)
    assert biases or family == "gpt2"


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_a_tuned_copy_changes_by_the_planted_size(dtype: str, tmp_path: Path) -> None:
    base = tiny_models.build("llama", tmp_path / "base", seed=0, dtype=dtype)
    tuned = tiny_models.perturb(base, tmp_path / "tuned", rank=2, seed=1, scale=0.1)
    before, after = tiny_models.read_tensors(base), tiny_models.read_tensors(tuned)
    linear = "model.layers.1.mlp.up_proj.weight"
    delta = (after[linear].float() - before[linear].float()).double()
    assert delta.norm() / before[linear].double().norm() == pytest.approx(0.1, rel=0.01)
    values = delta.svd().S
    assert values[2] < (1e-5 if dtype == "fp32" else 0.05) * values[0]
    same = {name for name in before if before[name].equal(after[name])}
    assert same == {name for name in before if "proj" not in name}
    again = tiny_models.build("llama", tmp_path / "again", seed=0, dtype=dtype)
    assert (again / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("name", "role", "layer"),
    [
        ("model.layers.7.self_attn.q_proj.weight", Role.ATTENTION, 7),
        ("model.layers.7.linear_attn.in_proj_qkv.weight", Role.ATTENTION, 7),
        ("model.layers.12.mlp.down_proj.weight", Role.MLP, 12),
        ("model.layers.3.feed_forward.w1.weight", Role.MLP, 3),
        ("model.layers.3.mlp.experts.17.gate_proj.weight", Role.EXPERTS, 3),
        ("model.layers.0.block_sparse_moe.experts.5.w2.weight", Role.EXPERTS, 0),
        ("model.layers.3.mlp.shared_expert.gate_proj.weight", Role.MLP, 3),
        ("model.layers.3.mlp.shared_experts.up_proj.weight", Role.MLP, 3),
        ("model.layers.3.mlp.gate.weight", Role.ROUTER, 3),
        ("model.layers.3.block_sparse_moe.gate.weight", Role.ROUTER, 3),
        ("model.layers.3.mlp.shared_expert_gate.weight", Role.ROUTER, 3),
        ("model.layers.3.mlp.router.weight", Role.ROUTER, 3),
        ("model.layers.3.feed_forward.router.layer.weight", Role.ROUTER, 3),
        ("lm_head.weight", Role.HEAD, None),
        ("language_model.lm_head.weight", Role.HEAD, None),
        ("score.weight", Role.HEAD, None),
        ("model.layers.3.score.weight", Role.OTHER, 3),
        ("model.decoder.project_in.weight", Role.OTHER, None),
        ("encoder.block.2.layer.1.DenseReluDense.wi.weight", Role.MLP, 2),
        ("encoder.block.2.layer.0.SelfAttention.q.weight", Role.ATTENTION, 2),
        ("bert.encoder.layer.4.attention.self.query.weight", Role.ATTENTION, 4),
        ("bert.encoder.layer.4.attention.output.dense.weight", Role.ATTENTION, 4),
        ("bert.encoder.layer.4.output.dense.weight", Role.MLP, 4),
        ("bert.encoder.layer.4.intermediate.dense.weight", Role.MLP, 4),
        ("transformer.h.1.attn.c_attn.weight", Role.ATTENTION, 1),
        ("multi_modal_projector.linear_1.weight", Role.OTHER, None),
        ("layers.weight", Role.OTHER, None),
        ("layers.x.3.weight", Role.OTHER, None),
    ],
)
def test_roles_and_layers_of_unknown_models(name: str, role: Role, layer: int | None) -> None:
    linear = the_linear(name)
    assert (linear.role, linear.layer) == (role, layer)
    assert linear.name == name.removesuffix(".weight")
    assert linear.kind == linear.name.split(".")[-1]
    assert linear.shape == (6, 4)
    assert not linear.transposed


@pytest.mark.parametrize(
    ("model_type", "name", "role"),
    [
        ("gpt2", "transformer.h.0.attn.c_proj", Role.ATTENTION),
        ("gpt2", "transformer.h.0.mlp.c_proj", Role.MLP),
        ("gpt_bigcode", "transformer.h.0.mlp.c_proj", Role.MLP),
        ("phi", "model.layers.0.self_attn.dense", Role.ATTENTION),
        ("falcon", "transformer.h.0.self_attention.dense", Role.ATTENTION),
        ("falcon", "transformer.h.0.mlp.dense_4h_to_h", Role.MLP),
        ("bloom", "transformer.h.0.self_attention.query_key_value", Role.ATTENTION),
        ("opt", "model.decoder.layers.0.self_attn.out_proj", Role.ATTENTION),
        ("opt", "model.decoder.layers.0.fc1", Role.MLP),
        ("mpt", "transformer.blocks.0.attn.Wqkv", Role.ATTENTION),
        ("mpt", "transformer.blocks.0.ffn.up_proj", Role.MLP),
        ("gptj", "transformer.h.0.mlp.fc_in", Role.MLP),
        ("starcoder2", "model.layers.0.mlp.c_fc", Role.MLP),
        ("deepseek_v3", "model.layers.0.self_attn.kv_a_proj_with_mqa", Role.ATTENTION),
    ],
)
def test_roles_of_families(model_type: str, name: str, role: Role) -> None:
    linear = the_linear(f"{name}.weight", model_type)
    assert linear.role is role
    assert linear.layer == 0
    assert linear.transposed == (model_type == "gpt2")
    assert linear.shape == ((4, 6) if model_type == "gpt2" else (6, 4))


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "why"),
    [
        ("model.embed_tokens.weight", (9, 4), "BF16", "embedding"),
        ("gpt_neox.embed_in.weight", (9, 4), "F32", "embedding"),
        ("transformer.wpe.weight", (9, 4), "F16", "embedding"),
        ("transformer.word_embeddings.weight", (9, 4), "F16", "embedding"),
        ("bert.embeddings.token_type_embeddings.weight", (2, 4), "F16", "embedding"),
        ("a.SelfAttention.relative_attention_bias.weight", (8, 4), "F32", "embedding"),
        ("shared.weight", (9, 4), "F32", "embedding"),
        ("vision.class_embedding", (4,), "F32", "embedding"),
        ("model.norm.weight", (4,), "BF16", "norm"),
        ("transformer.ln_f.weight", (4,), "BF16", "norm"),
        ("model.layers.0.self_attn.q_norm.weight", (8, 4), "BF16", "norm"),
        ("model.layers.0.self_attn.q_layernorm.norms.3.weight", (4,), "BF16", "norm"),
        ("model.layers.0.self_attn.q_proj.bias", (4,), "BF16", "bias"),
        ("model.layers.0.mlp.experts.gate_up_proj_bias", (8, 4), "BF16", "bias"),
        ("model.layers.0.mlp.experts.gate_up_proj", (8, 4, 6), "BF16", "stacked experts"),
        ("a.block_sparse_moe.input_linear.weight", (8, 4, 6), "BF16", "stacked experts"),
        ("a.ffn.experts.mlp.w1", (80, 4), "BF16", "stacked experts"),
        ("transformer.blocks.0.ffn.experts.w1", (80, 4), "BF16", "stacked experts"),
        ("a.mixer.conv1d.weight", (8, 1, 4), "BF16", "convolution"),
        ("a.patch_embed.proj.weight", (8, 3, 4, 4), "BF16", "convolution"),
        ("a.probe", (1, 1, 4), "BF16", "3-dimensional parameter"),
        ("a.mixer.A_log", (8, 4), "F32", "not a linear layer's weight"),
        ("a.mixer.dt", (8,), "F32", "vector"),
        ("a.logit_scale", (), "F32", "scalar"),
        ("a.q_proj.weight", (0, 4), "F32", "empty"),
        ("weight", (4, 4), "F32", "not a linear layer's weight"),
        (".weight", (4, 4), "F32", "not a linear layer's weight"),
        ("a.q_proj.weight", (4, 4), "I8", "not a floating-point weight (I8)"),
        ("a.position_ids", (1, 4), "I64", "not a floating-point weight (I64)"),
    ],
)
def test_tensors_that_are_no_linear_layers(
    name: str, shape: tuple[int, ...], dtype: str, why: str
) -> None:
    found = inventory({name: shape}, dtypes={name: dtype})
    assert found.linears == ()
    assert found.others == {name: why}


@pytest.mark.parametrize("dtype", ["F64", "F8_E8M0", "F4"])
def test_float_formats_that_are_not_computed_with(dtype: str) -> None:
    found = inventory({"a.q_proj.weight": (4, 4)}, dtypes={"a.q_proj.weight": dtype})
    (why,) = found.others.values()
    assert (
        why == f"{dtype} is not among the formats computed with (BF16, F16, F32, F8_E4M3, F8_E5M2)"
    )


def test_a_row_and_a_column_are_linear_layers() -> None:
    found = inventory({"a.gate_x.weight": (1, 4), "a.up.weight": (4, 1)})
    assert [linear.shape for linear in found.linears] == [(1, 4), (4, 1)]


def test_layers_that_peft_refuses_are_left_out_with_the_reason() -> None:
    shapes = {f"backbone.layers.0.mixer.{kind}.weight": (4, 4) for kind in ("in_proj", "out_proj")}
    found = inventory(shapes, {"model_type": "mamba"})
    assert [linear.kind for linear in found.linears] == ["in_proj"]
    assert "PEFT refuses LoRA" in found.others["backbone.layers.0.mixer.out_proj.weight"]
    assert len(inventory(shapes, {"model_type": "llama"}).linears) == 2


@pytest.mark.parametrize(
    ("model_type", "architecture", "path", "name"),
    [
        ("gpt2", "GPT2LMHeadModel", "h.0.attn.c_attn", "transformer.h.0.attn.c_attn"),
        ("gpt2", "GPT2Model", "transformer.h.0.attn.c_attn", "h.0.attn.c_attn"),
        ("gpt2", "GPT2Model", "h.0.attn.c_attn", "h.0.attn.c_attn"),
        ("gpt2", "GPT2LMHeadModel", "lm_head", "lm_head"),
        ("gpt2", None, "h.0.attn.c_attn", "h.0.attn.c_attn"),
        ("bloom", "BloomForCausalLM", "h.0.mlp.dense_h_to_4h", "transformer.h.0.mlp.dense_h_to_4h"),
        ("opt", "OPTForCausalLM", "decoder.layers.0.fc1", "model.decoder.layers.0.fc1"),
        ("llama", "LlamaForCausalLM", "model.layers.0.mlp.up_proj", "model.layers.0.mlp.up_proj"),
        ("gpt_neox", "GPTNeoXForCausalLM", "embed_out", "lm_head"),
        ("unheard_of", "SomeForCausalLM", "layers.0.up_proj", "layers.0.up_proj"),
        (
            "gemma3",
            "Gemma3ForConditionalGeneration",
            "vision_tower.vision_model.encoder.layers.0.mlp.fc1",
            "model.vision_tower.encoder.layers.0.mlp.fc1",
        ),
        ("gemma3", "Gemma3ForConditionalGeneration", "language_model.lm_head", "lm_head"),
    ],
)
def test_module_names(model_type: str, architecture: str | None, path: str, name: str) -> None:
    config = {"model_type": model_type, "architectures": [architecture]}
    (linear,) = inventory({f"{path}.weight": (4, 4)}, config).linears
    assert linear.name == name
    assert linear.tensor == f"{path}.weight"


def test_two_tensors_of_one_module_are_an_error() -> None:
    shapes = {"language_model.lm_head.weight": (4, 4), "lm_head.weight": (4, 4)}
    with pytest.raises(FormatError, match=r"lm_head\.weight are the same module lm_head"):
        inventory(shapes, {"model_type": "gemma3"})


def test_family_files_are_sound_and_unknown_types_are_generic() -> None:
    families = load_families(DATA)
    assert {family.name for family in families} == {path.stem for path in DATA.glob("*.json")}
    for family in families:
        for model_type in family.model_types:
            assert family_of({"model_type": model_type}).name == family.name
    for config in (None, {}, {"model_type": "unheard_of"}, {"model_type": 3}):
        assert family_of(config).name == "generic"
    for model_type in ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"):
        assert family_of({"model_type": model_type}).name == "llama"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "got list, expected a JSON object"),
        ({}, "key 'name' must be a non-empty string"),
        ({"name": "x", "rolls": {}}, "unknown key 'rolls'"),
        ({"name": "x", "roles": {"q": "attn"}}, "unknown role 'attn', expected one of attention"),
        ({"name": "x", "roles": {"": "mlp"}}, "key 'roles' must map non-empty strings"),
        ({"name": "x", "roles": ["q"]}, "key 'roles' must map non-empty strings"),
        ({"name": "x", "transposed": "c_fc"}, "key 'transposed' must be a list"),
        ({"name": "x", "model_types": [""]}, "key 'model_types' must be a list"),
        ({"name": "x", "backbone": None}, "key 'backbone' must be a string"),
        ({"name": "x", "refused": {"q": 1}}, "key 'refused' must map"),
        ({"name": "x", "renames": [["a"]]}, "key 'renames' must be a list of"),
        ({"name": "x", "renames": [["(", "b"]]}, "is no regex"),
        ({"name": "x", "renames": [["a", "\\3"]]}, "is no regex"),
        ({"name": "x", "fused": {"qkv": "kqv"}}, "key 'fused' must map non-empty strings to one"),
        ({"name": "x", "fused": {"qkv": ["qkv"]}}, "qkv, qkv_by_group, gate_up"),
        ({"name": "x", "fused": ["qkv"]}, "key 'fused' must map"),
    ],
)
def test_family_files_are_checked(data: object, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse_family(data, "some.json")
    assert str(caught.value).startswith("some.json: ")
    assert message in str(caught.value)


def test_family_directories_are_checked(tmp_path: Path) -> None:
    def write(stem: str, **data: Any) -> None:
        (tmp_path / f"{stem}.json").write_text(json.dumps({"name": stem} | data))

    with pytest.raises(FormatError, match=r"generic\.json is missing"):
        load_families(tmp_path)
    write("generic", roles={"q": "attention"})
    write("one", model_types=["t"], roles={"q": "mlp"})
    one = next(family for family in load_families(tmp_path) if family.name == "one")
    assert one.role("a.q") is Role.MLP
    write("two", model_types=["t"])
    with pytest.raises(FormatError, match=r"'t' is served by one\.json and by two\.json"):
        load_families(tmp_path)
    write("two", name="three")
    with pytest.raises(FormatError, match="name is 'three', expected the file's, 'two'"):
        load_families(tmp_path)
    (tmp_path / "two.json").write_text("{")
    with pytest.raises(FormatError, match="not a readable JSON file"):
        load_families(tmp_path)

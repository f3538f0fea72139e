"""The rows of fused weights, as the real classes of transformers read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import fused_models as fused
from loragraft.architecture import take_inventory
from loragraft.architecture.families import family_of
from loragraft.architecture.fused import FusedRows, rows_of_parts
from loragraft.architecture.parts import split
from loragraft.checkpoint import open_checkpoint
from loragraft.subspaces.weight import dense
from loragraft.tensor_reader import TensorReader

if TYPE_CHECKING:
    from pathlib import Path

    from loragraft.architecture.parts import Part

IDS = torch.tensor([[3, 7, 1, 9, 4, 2, 8]])
_COMMON: dict[str, Any] = {"vocab_size": 24, "bos_token_id": 1, "eos_token_id": 2,
                           "pad_token_id": 0}  # fmt: skip
_HEADS = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
_GPT = {"n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 32}
#: Model type, settings, and the number of heads of keys.
MODELS: dict[str, tuple[str, dict[str, Any], int]] = {
    "phi3": ("phi3", {**_HEADS, "num_key_value_heads": 2, "intermediate_size": 48}, 2),
    "glm4": ("glm4", {**_HEADS, "num_key_value_heads": 2, "intermediate_size": 48,
                      "head_dim": 8}, 2),
    "gpt_neox": ("gpt_neox", {**_HEADS, "intermediate_size": 48}, 4),
    "bloom": ("bloom", {"hidden_size": 32, "n_layer": 1, "n_head": 4}, 4),
    "falcon, groups": ("falcon", {**_HEADS, "new_decoder_architecture": True, "num_kv_heads": 2,
                                  "alibi": False}, 2),
    "falcon, one key": ("falcon", {**_HEADS, "multi_query": True, "alibi": False}, 1),
    "falcon, all": ("falcon", {**_HEADS, "multi_query": False, "alibi": True}, 4),
    "gpt2": ("gpt2", _GPT, 4),
    "gpt_bigcode, one key": ("gpt_bigcode", {**_GPT, "multi_query": True}, 1),
    "gpt_bigcode, all": ("gpt_bigcode", {**_GPT, "multi_query": False}, 4),
    "mpt": ("mpt", {"d_model": 32, "n_layers": 1, "n_heads": 4, "max_seq_len": 32}, 4),
    "dbrx": ("dbrx", {"d_model": 32, "n_layers": 1, "n_heads": 4, "max_seq_len": 32,
                      "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 1e9},
                      "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 2, "moe_top_k": 1}},
             2),
}  # fmt: skip


class Opened:
    """A real model, and the layers that its files are said to have."""

    def __init__(self, which: str, tmp_path: Path) -> None:
        model_type, settings, self.keys = MODELS[which]
        config = AutoConfig.for_model(model_type, **_COMMON, **settings)
        config.use_cache = False
        torch.manual_seed(1)
        self.model = AutoModelForCausalLM.from_config(config).eval().double()
        with torch.no_grad():
            for parameter in self.model.parameters():
                if parameter.dim() == 2:
                    parameter.copy_(torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)
                elif parameter.dim() > 2:
                    parameter.normal_(std=0.1)
        self.model.float().save_pretrained(tmp_path / "M")
        self.model.double()
        self.parts = fused.parts(tmp_path / "M")

    def part(self, kind: str) -> Part:
        (found,) = (part for part in self.parts.values() if part.linear.kind == kind)
        return found

    def rows(self, kind: str) -> tuple[torch.Tensor, np.ndarray]:
        """The weight in memory as (out, in), and the rows of a part."""
        part = self.part(kind)
        weight = self.model.get_submodule(part.whole.name).weight.data
        return (weight.T if part.whole.transposed else weight), fused.rows_of(part)

    def logits(self) -> torch.Tensor:
        with torch.no_grad():
            return self.model(IDS).logits


@pytest.mark.parametrize("which", [name for name in MODELS if name != "glm4"])
def test_queries_keys_and_values_are_where_the_class_reads_them(which: str, tmp_path: Path) -> None:
    opened = Opened(which, tmp_path)
    before = opened.logits()
    (weight, q), (_, k), (_, v) = (opened.rows(f"{one}_proj") for one in "qkv")
    assert sorted(np.concatenate([q, k, v])) == list(range(weight.shape[0]))
    size = 32 // 4
    group = 4 // opened.keys
    assert (len(q), len(k), len(v)) == (32, size * opened.keys, size * opened.keys)
    # Queries of one head times c and the key that they meet over c: nothing changes.
    for key in range(opened.keys):
        own = q[key * group * size : (key + 1) * group * size]
        weight[own] *= 3.0
        changed = opened.logits()
        assert (changed - before).abs().max() > 1e-3
        weight[k[key * size : (key + 1) * size]] /= 3.0
        assert torch.allclose(opened.logits(), before, atol=1e-9)
    # Without values the attention gives nothing, so queries and keys do not matter.
    weight[v] = 0.0
    silent = opened.logits()
    weight[q] *= -2.0
    weight[k] *= 5.0
    assert torch.allclose(opened.logits(), silent, atol=1e-9)


@pytest.mark.parametrize("which", ["phi3", "glm4"])
def test_gates_and_ups_are_where_the_class_reads_them(which: str, tmp_path: Path) -> None:
    opened = Opened(which, tmp_path)
    (weight, gate), (_, up) = (opened.rows(f"{one}_proj") for one in ("gate", "up"))
    assert sorted(np.concatenate([gate, up])) == list(range(96))
    base = opened.logits()
    kept = weight[up].clone()
    weight[up] = 0.0
    silent = opened.logits()
    weight[up] = 2.0 * kept
    # The gate goes through an activation, the other does not: what it gives is linear in it.
    mlp = opened.model.model.layers[0].mlp
    x = torch.randn(3, 32, dtype=torch.float64)
    with torch.no_grad():
        twice = mlp(x)
        weight[up] = kept
        assert torch.allclose(twice, 2.0 * mlp(x), atol=1e-12)
        weight[gate] *= 2.0
        assert not torch.allclose(twice, mlp(x), atol=1e-3)
    assert not torch.allclose(base, silent, atol=1e-3)


@pytest.mark.parametrize("which", MODELS)
def test_parts_are_read_from_the_files_as_these_rows(which: str, tmp_path: Path) -> None:
    opened = Opened(which, tmp_path)
    with TensorReader() as reader:
        found = 0
        for part in opened.parts.values():
            weight = dense(reader, part.whole)
            assert np.array_equal(dense(reader, part.linear), weight[fused.rows_of(part)])
            assert part.linear.shape == (len(fused.rows_of(part)), weight.shape[1])
            assert part.linear.name.endswith(part.linear.kind)
            found += not part.is_whole
    assert found >= 2


def test_what_cannot_be_told_apart_stays_whole(tmp_path: Path) -> None:
    opened = Opened("phi3", tmp_path)
    checkpoint = open_checkpoint(tmp_path / "M")
    linears = take_inventory(checkpoint).linears
    assert all(part.is_whole for part in split(linears, None))
    assert all(part.is_whole for part in split(linears, {"model_type": "llama"}))
    bare = split(linears, {"model_type": "phi3"})
    assert {part.whole.kind for part in bare if not part.is_whole} == {"gate_up_proj"}
    assert len(opened.parts) > len(linears)


@pytest.mark.parametrize(
    ("shape", "config"),
    [
        ((64, 32), {}),
        ((65, 32), {"num_attention_heads": 4}),
        ((56, 32), {"num_attention_heads": 4, "head_dim": 8}),  # 1.5 heads of keys
        ((80, 32), {"num_attention_heads": 4, "head_dim": 8}),  # 3, of which 4 is no multiple
        ((64, 32), {"num_attention_heads": 4, "num_key_value_heads": 1}),  # the shape says 2
        ((32, 32), {"num_attention_heads": 4}),
        ((64, 32), {"num_attention_heads": "4"}),
        ((64, 32), {"num_attention_heads": True}),
    ],
)
def test_shapes_that_contradict_the_configuration(
    shape: tuple[int, int], config: dict[str, Any]
) -> None:
    assert rows_of_parts(FusedRows.QKV, shape, config) == {}
    assert rows_of_parts(FusedRows.GATE_UP, (shape[0] | 1, 32), config) == {}


def test_heads_of_a_size_of_their_own() -> None:
    # Qwen 1, whose class is no part of transformers: c_attn is queries, keys, values.
    config = {"model_type": "qwen", "num_attention_heads": 2, "kv_channels": 3}
    found = rows_of_parts(FusedRows.QKV, (18, 32), config)
    assert found == {"q_proj": (range(6),), "k_proj": (range(6, 12),), "v_proj": (range(12, 18),)}
    assert family_of(config).fused_rows("transformer.h.3.attn.c_attn") is FusedRows.QKV
    assert family_of(config).fused_rows("transformer.h.3.crossattn.c_attn") is None


def test_rows_by_group() -> None:
    config = {"text_config": {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 2}}
    found = rows_of_parts(FusedRows.QKV_BY_GROUP, (16, 8), config)
    assert found == {
        "q_proj": (range(4), range(8, 12)),
        "k_proj": (range(4, 6), range(12, 14)),
        "v_proj": (range(6, 8), range(14, 16)),
    }

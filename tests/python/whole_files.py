"""Pairs of tiny models, adapters that carry more than factors, and what PEFT makes of them."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import peft.peft_model
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM

from loragraft.adapter.peft_config import (
    CONFIG_FILE,
    TENSORS_FILE,
    WrittenModule,
    adapter_config,
    factor_keys,
    task_type,
)
from loragraft.adapter.whole import find_candidates
from loragraft.adapter.whole_plan import plan_whole, read_spans
from loragraft.architecture import take_inventory
from loragraft.checkpoint import open_checkpoint
from loragraft.safetensors_writer import SafetensorsWriter
from loragraft.tensor_bytes import TensorBytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import pytest

    from loragraft.adapter.whole import Candidates
    from loragraft.adapter.whole_plan import SaveWhole, WholePlan

RANK = 4
VOCABULARY = 512
#: PEFT 0.21 asks transformers 5.23 by the old name; it has nothing to do with the adapter.
DEPRECATED = "`is_gradient_checkpointing` is deprecated"

_COMMON = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_LLAMA = {
    **_COMMON,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {**_LLAMA, "tie_word_embeddings": False},
    "qwen2": {**_LLAMA, "tie_word_embeddings": True},
    "gemma3_text": {**_LLAMA, "head_dim": 8, "sliding_window": 16, "query_pre_attn_scalar": 8},
    "phi": {**_LLAMA, "resid_pdrop": 0.0, "embd_pdrop": 0.0},
    "gpt2": {
        "vocab_size": VOCABULARY,
        "n_positions": 32,
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 2,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    },
    "qwen3_moe": {
        **_LLAMA,
        "head_dim": 8,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 8,
    },
    "gpt_oss": {
        **_LLAMA,
        "head_dim": 8,
        "sliding_window": 16,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    },
    "mamba": {**_COMMON, "hidden_size": 16, "state_size": 4, "num_hidden_layers": 2},
}


@dataclass
class Pair:
    """Two checkpoints; the tuned one differs by planted factors and by what `change` did."""

    base: Path
    tuned: Path
    factors: dict[str, torch.Tensor] = field(default_factory=dict)
    modules: tuple[str, ...] = ()


def build(family: str, directory: Path, **config: Any) -> Path:
    """Save a random model in float32, norms and biases random too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        settings = AutoConfig.for_model(family, **{**CONFIGS[family], **config})
        model = AutoModelForCausalLM.from_config(settings)  # type: ignore[no-untyped-call]
        model = model.to(torch.float32).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(directory)
    return directory


def tune(
    base: Path,
    directory: Path,
    modules: Sequence[str],
    change: Callable[[torch.nn.Module], object],
    auto: Any = AutoModelForCausalLM,
) -> Pair:
    """Save a copy of a model in which LoRA factors are merged and `change` has been made."""
    model = auto.from_pretrained(base)
    generator = torch.Generator().manual_seed(5)
    factors = {}
    for name in modules:
        weight = model.get_submodule(name).weight
        conv1d = type(model.get_submodule(name)).__name__ == "Conv1D"
        rows, columns = weight.shape[::-1] if conv1d else weight.shape
        key_a, key_b = factor_keys(name)
        factors[key_a] = 0.2 * torch.randn(RANK, columns, generator=generator)
        factors[key_b] = 0.2 * torch.randn(rows, RANK, generator=generator)
        delta = factors[key_b] @ factors[key_a]
        with torch.no_grad():
            weight.add_(delta.T if conv1d else delta)
    with torch.no_grad():
        change(model)
    model.save_pretrained(directory)
    return Pair(base, directory, factors, tuple(modules))


def candidates_of(pair: Pair) -> Candidates:
    """What the pair has besides the planted factors."""
    base, tuned = open_checkpoint(pair.base), open_checkpoint(pair.tuned)
    inventory = take_inventory(base)
    adapted = [linear for linear in inventory.linears if linear.name in pair.modules]
    return find_candidates(base, tuned, inventory, adapted)


def unchanged(pair: Pair) -> set[str]:
    """Tensors that both sides store alike, as an extraction finds out."""
    base, tuned = open_checkpoint(pair.base).tensors, open_checkpoint(pair.tuned).tensors
    with TensorBytes() as reader:
        return {
            name
            for name in base.keys() & tuned.keys()
            if base[name].shape == tuned[name].shape
            and reader.raw(base[name]) == reader.raw(tuned[name])
        }


def make_plan(pair: Pair, what: SaveWhole) -> WholePlan:
    """What an extraction would carry."""
    with TensorBytes() as reader:
        return plan_whole(candidates_of(pair), what, unchanged(pair), reader)


def write_adapter(
    directory: Path,
    pair: Pair,
    plan: WholePlan,
    more: Mapping[str, torch.Tensor] | None = None,
    embeddings: Sequence[str] = (),
) -> Path:
    """Write the planted factors and what the plan says."""
    base = open_checkpoint(pair.base)
    inventory = take_inventory(base)
    linears = {linear.name: linear for linear in inventory.linears}
    written = [WrittenModule(n, RANK, RANK, linears[n].transposed) for n in pair.modules]
    written += [WrittenModule(name, RANK, RANK, False) for name in embeddings]
    config = adapter_config(
        written,
        base_model=str(pair.base),
        rank=RANK,
        alpha=RANK,
        all_linear_names=list(linears),
        task_type=task_type(base.config),
    )
    factors = {**pair.factors, **(more or {})}
    layout = [(key, "F32", tuple(tensor.shape)) for key, tensor in factors.items()]
    layout += [(tensor.key, tensor.dtype, tensor.shape) for tensor in plan.tensors]
    directory.mkdir()
    with SafetensorsWriter(directory / TENSORS_FILE, layout, {"format": "pt"}) as writer:
        for key, tensor in factors.items():
            writer.write(key, tensor.contiguous().numpy())
        with TensorBytes() as reader:
            for saved in plan.tensors:
                for place, data in read_spans(reader, saved):
                    writer.write_part(saved.key, data, place)
    text = json.dumps({**config, **plan.config})
    (directory / CONFIG_FILE).write_text(text, encoding="utf-8")
    return directory


def logits(model: Any, tokens: torch.Tensor | None = None) -> torch.Tensor:
    """What a model says about tokens."""
    if tokens is None:
        tokens = torch.arange(20, 80).reshape(3, 20)
    with torch.no_grad():
        return model(input_ids=tokens).logits


def check(
    pair: Pair,
    adapter: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    auto: Any = AutoModelForCausalLM,
    prepare: Callable[[Any], object] = lambda model: None,
    tokens: torch.Tensor | None = None,
    warning: str = "",
) -> Any:
    """Load the adapter with PEFT and compare with the tuned model, as it is and merged.

    Args:
        pair: The models.
        adapter: The adapter.
        monkeypatch: To see which keys PEFT misses.
        auto: Class that loads the models.
        prepare: Done to the base model before the adapter is loaded.
        tokens: To compare the logits on.
        warning: The beginning of the only warning that may come.

    Returns:
        The merged model.
    """
    want = logits(auto.from_pretrained(pair.tuned).eval(), tokens)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=DEPRECATED)
        if warning:
            warnings.filterwarnings("ignore", message=warning)
        model = auto.from_pretrained(pair.base).eval()
        prepare(model)
        before = logits(model, tokens)
        loaded = list(_load(model, adapter, monkeypatch))
        got = logits(loaded[0], tokens)
        merged = loaded[0].merge_and_unload()
    _compare(want, before, got, logits(merged, tokens))
    tuned = auto.from_pretrained(pair.tuned).state_dict()
    for name, value in merged.state_dict().items():
        torch.testing.assert_close(value, tuned[name], rtol=0, atol=2e-6)
    return merged


def _compare(want: torch.Tensor, before: torch.Tensor, *found: torch.Tensor) -> None:
    # float32 sums of 16 to 512 terms in another order; the logits are of order 1 to 10.
    bound = 1e-5 * max(1.0, float(want.abs().max()))
    assert all(float((logit - want).abs().max()) < bound for logit in found)
    assert float((before - want).abs().max()) > 1000 * bound


def _load(model: Any, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    results = []
    original = peft.peft_model.set_peft_model_state_dict

    def spy(*args: Any, **kwargs: Any) -> Any:
        results.append(original(*args, **kwargs))
        return results[-1]

    monkeypatch.setattr(peft.peft_model, "set_peft_model_state_dict", spy)
    yield PeftModel.from_pretrained(model, adapter)
    (result,) = results
    assert result.unexpected_keys == []
    # A tied head takes its rows from the embedding.
    adapter_keys = [key for key in result.missing_keys if "lora_" in key]
    assert adapter_keys == []

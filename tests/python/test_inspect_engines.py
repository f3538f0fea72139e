"""``inspect --for``: what a program would do with an adapter; and GGUF files looked into."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

import gguf_models as models
import mixed_adapters as mixed
from command_line import CommandLine, loragraft
from loragraft.errors import FormatError, UsageError
from loragraft.exporting import export
from loragraft.inspection import inspect
from loragraft.report.inspection import Subject
from raw_gguf import ARRAY, STRING, U32, array, entry, raw_gguf, string, tensor, u32
from test_export import gguf_adapter, in_k_quants, random

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["loragraft"]

ENGINES = ("peft", "vllm", "sglang", "llama.cpp")
LOADS, WRONG, REFUSES = (True, True), (True, False), (False, False)
Case = tuple[str, tuple[bool, bool], str]


def adapter_of(directory: Path, base: Path, layout: str = "peft", **options: Any) -> Path:
    linears = [one for one in mixed.modules_of(base, layout) if ".layers." in one.name]
    usual = {"rank": lambda _: 4, "scaling": lambda _: 1.0}
    mixed.write(directory, base, linears, layout=layout, **(usual | options))
    return directory


def edit(adapter: Path, tensors: dict[str, Any] | None = None, **config: Any) -> Path:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | config))
    if tensors:
        file = adapter / "adapter_model.safetensors"
        save_file(load_file(file) | tensors, file, metadata={"format": "pt"})
    return adapter


def check(path: Path, expected: dict[str, tuple[tuple[bool, bool], str]]) -> None:
    """For each program: whether it loads and gets it right, and a word of why."""
    assert set(expected) == set(ENGINES)
    for engine, (fate, word) in expected.items():
        found = inspect(path, engine=engine).outlook
        assert found is not None
        assert (found.loads, found.right) == fate, (engine, found)
        text = " ".join(found.notes)
        assert word in text, (engine, found)
        assert text.isprintable()
    assert inspect(path).outlook is None


ONLY_GGUF = (REFUSES, "reads GGUF adapters alone")


def test_plain(tmp_path: Path, built: Callable[[str], Path]) -> None:
    path = adapter_of(tmp_path / "a", built("llama"))
    check(path, {"peft": (LOADS, ""), "vllm": (LOADS, ""), "sglang": (LOADS, ""),
                 "llama.cpp": ONLY_GGUF})  # fmt: skip
    for engine in ("peft", "vllm", "sglang"):
        found = inspect(path, engine=engine).outlook
        assert found is not None
        assert found.notes == ()


def test_large_rank(tmp_path: Path, built: Callable[[str], Path]) -> None:
    path = adapter_of(tmp_path / "a", built("llama"), rank=lambda _: 17)
    check(path, {"peft": (LOADS, ""), "vllm": (LOADS, "--max-lora-rank 17"), "sglang": (LOADS, ""),
                 "llama.cpp": ONLY_GGUF})  # fmt: skip


def test_mixed_ranks(tmp_path: Path, built: Callable[[str], Path]) -> None:
    path = adapter_of(tmp_path / "a", built("llama"), rank=mixed.mixed_ranks)
    # Alpha is the rank of every module: what vLLM reads, r and lora_alpha, gives 1 as well.
    check(path, {"peft": (LOADS, ""), "vllm": (LOADS, ""), "sglang": (LOADS, ""),
                 "llama.cpp": (REFUSES, "from its own converter")})  # fmt: skip
    path = adapter_of(tmp_path / "b", built("llama"), scaling=lambda number: 1.0 + number % 2)
    check(path, {"peft": (LOADS, ""), "vllm": (WRONG, "lora_alpha / r"),
                 "sglang": (WRONG, "lora_alpha / r"),
                 "llama.cpp": (REFUSES, "from its own converter")})  # fmt: skip


def test_rslora(tmp_path: Path, built: Callable[[str], Path]) -> None:
    path = adapter_of(tmp_path / "a", built("llama"), rslora=True)
    check(path, {"peft": (LOADS, ""), "vllm": (LOADS, ""), "sglang": (LOADS, ""),
                 "llama.cpp": (REFUSES, "rsLoRA")})  # fmt: skip


def test_dora(tmp_path: Path, built: Callable[[str], Path]) -> None:
    """Not read here, and still told of."""
    path = adapter_of(tmp_path / "a", built("llama"))
    tensors = load_file(path / "adapter_model.safetensors")
    name = next(key for key in tensors if "lora_B" in key)
    vector = name.replace("lora_B.weight", "lora_magnitude_vector")
    edit(path, {vector: tensors[name][:, 0].clone()}, use_dora=True)
    found = inspect(path, engine="vllm")
    assert found.outlook is not None
    assert not found.outlook.loads
    assert "Not looked at further" in found.problems[0]
    for engine, loads in (("peft", True), ("sglang", False), ("llama.cpp", False)):
        outlook = inspect(path, engine=engine).outlook
        assert outlook is not None
        assert outlook.loads == loads
    with pytest.raises(FormatError):
        inspect(path)


def test_whole_modules(tmp_path: Path, built: Callable[[str], Path]) -> None:
    head = load_file(built("llama") / "model.safetensors")["lm_head.weight"]
    path = edit(
        adapter_of(tmp_path / "a", built("llama")),
        {"base_model.model.lm_head.weight": head},
        modules_to_save=["lm_head"],
    )
    check(path, {"peft": (LOADS, ""), "vllm": (REFUSES, "modules_to_save"),
                 "sglang": (WRONG, "modules_to_save"),
                 "llama.cpp": (REFUSES, "no place for 1 tensor beside")})  # fmt: skip


def test_token_rows(tmp_path: Path, built: Callable[[str], Path]) -> None:
    rows = load_file(built("llama") / "model.safetensors")["lm_head.weight"][:2].clone()
    name = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
    path = edit(
        adapter_of(tmp_path / "a", built("llama")),
        {name: rows},
        trainable_token_indices={"embed_tokens": [3, 5]},
    )
    check(path, {"peft": (LOADS, ""), "vllm": (REFUSES, "trainable_token_indices"),
                 "sglang": (WRONG, "trainable_token_indices"),
                 "llama.cpp": (REFUSES, "no place for 1 tensor")})  # fmt: skip


@pytest.mark.parametrize("layout", ["peft", "peft-legacy", ""])
def test_fused_experts(tmp_path: Path, built: Callable[[str], Path], layout: str) -> None:
    path = adapter_of(tmp_path / "a", built("qwen3_moe"), layout or "peft")
    if not layout:
        # Saved again by somebody else: nothing says which layout it is.
        file = path / "adapter_model.safetensors"
        save_file(load_file(file), file, metadata={"format": "pt"})
    words = {"peft": "from version 0.19.1 on", "peft-legacy": "up to version 0.18",
             "": "the file does not say"}  # fmt: skip
    check(path, {"peft": (LOADS, words[layout]), "vllm": (LOADS, "three dimensions"),
                 "sglang": (WRONG, "--format per-expert"), "llama.cpp": ONLY_GGUF})  # fmt: skip


def test_single_experts(tmp_path: Path, built: Callable[[str], Path]) -> None:
    path = adapter_of(tmp_path / "a", built("qwen3_moe"), "per-expert")
    check(path, {"peft": (LOADS, "single experts"), "vllm": (LOADS, "single experts"),
                 "sglang": (LOADS, ""), "llama.cpp": ONLY_GGUF})  # fmt: skip


def test_gguf_adapters(tmp_path: Path, built: Callable[[str], Path]) -> None:
    base = built("llama")
    export(adapter_of(tmp_path / "a", base), tmp_path / "a.gguf", base=base)
    others = dict.fromkeys(("peft", "vllm", "sglang"), (REFUSES, "--format peft"))
    check(tmp_path / "a.gguf", {**others, "llama.cpp": (LOADS, "architecture 'llama'")})
    pairs = {"blk.0.attn_q.weight": (random(64, 2), random(2, 64))}
    norms = ["blk.0.attn_norm.weight", "output_norm.weight"]
    path = gguf_adapter(tmp_path / "n.gguf", base, pairs, norms=norms)
    check(path, {**others, "llama.cpp": (WRONG, "ignores 2 norms")})
    found = inspect(path)
    assert found.others == {"norm": 2}
    assert "loads and ignores: 2" in found.problems[0]


def test_numbers_of_a_gguf_adapter(tmp_path: Path, built: Callable[[str], Path]) -> None:
    """Norms are those of the PEFT adapter that it was made of; so are ranks."""
    base = built("qwen3_moe")
    linears = [one for one in mixed.modules_of(base) if ".layers." in one.name]
    changes = mixed.write(tmp_path / "a", base, linears)
    export(tmp_path / "a", tmp_path / "out" / "adapter.gguf", base=base)
    for path in (tmp_path / "out", tmp_path / "out" / "adapter.gguf"):
        found = inspect(path)
        assert (found.kind, found.family, found.model_type) == (Subject.ADAPTER, "ggml", "qwen3moe")
        assert found.files == ("adapter.gguf",)
        norms = {module.name: module.norm for module in found.modules}
        q = changes["model.layers.1.self_attn.q_proj"].delta
        assert norms["blk.1.attn_q.weight"] == pytest.approx(np.linalg.norm(q), rel=1e-6)
        fused = changes["model.layers.0.mlp.experts.gate_up_proj"].delta
        for name, half in zip(("gate", "up"), np.split(fused, 2, 1), strict=True):
            norm = norms[f"blk.0.ffn_{name}_exps.weight"]
            assert norm == pytest.approx(np.linalg.norm(half), rel=1e-6)
        assert set(found.ranks) == {2, 3, 5}
        assert found.layers == 2
        json.dumps(found.to_json(), allow_nan=False)


def test_models(tmp_path: Path, built: Callable[[str], Path]) -> None:
    source = models.read(built("qwen3_moe"))
    plain = inspect(models.write(tmp_path / "m.gguf", source, dtype="F16"))
    assert (plain.kind, plain.model_type, plain.layers) == (Subject.CHECKPOINT, "qwen3moe", 2)
    kinds = {kind.kind: (kind.modules, kind.experts) for kind in plain.kinds}
    assert kinds["ffn_gate_exps"] == (2, 4)
    assert kinds["attn_q"] == (2, 0)
    assert plain.problems == ()
    assert plain.parameters == sum(value.size for value in source.tensors.values())
    coarse = inspect(models.write(tmp_path / "q.gguf", source, store=in_k_quants))
    assert "Weights stored as Q4_0" in coarse.problems[0]
    split = inspect(models.write(tmp_path / "s.gguf", source, shards=3))
    assert "one of 3 files" in split.problems[0]


@pytest.mark.parametrize(
    "entries",
    [
        [entry("split.count", STRING, string("3"))],
        [entry("split.count", ARRAY, array(U32, 1, u32(3)))],
        [entry("split.count", ARRAY, array(STRING, 0))],
        [entry("general.architecture", U32, u32(3))],
        [entry("general.type", ARRAY, array(U32, 0))],
        [],
    ],
)
def test_odd_models(tmp_path: Path, entries: list[bytes]) -> None:
    path = tmp_path / "odd.gguf"
    path.write_bytes(raw_gguf(entries, [tensor("blk.0.attn_q.weight", (8, 1))], bytes(32)))
    found = inspect(path)
    assert found.tensors == 1
    json.dumps(found.to_json(), allow_nan=False)


def test_command(loragraft: CommandLine, built: Callable[[str], Path], tmp_path: Path) -> None:
    path = adapter_of(tmp_path / "a", built("qwen3_moe"))
    answer = loragraft("inspect", path, "--for", "sglang", "--json")
    assert (answer.code, answer.err) == (0, "")
    outlook = answer.data["outlook"]
    assert outlook["engine"] == "SGLang"
    assert (outlook["loads"], outlook["right"]) == (True, False)
    assert "outlook" not in loragraft("inspect", path, "--json").data or (
        loragraft("inspect", path, "--json").data["outlook"] is None
    )
    answer = loragraft("inspect", path, "--for", "vllm")
    assert "vLLM" in answer.out
    assert "three dimensions" in " ".join(answer.out.split())
    assert loragraft("inspect", path, "--for", "ollama").code == 2


def test_models_are_no_adapters(
    loragraft: CommandLine, built: Callable[[str], Path], tmp_path: Path
) -> None:
    base = built("llama")
    stored = models.write(tmp_path / "m.gguf", models.read(base))
    for path in (base, base / "model.safetensors", stored):
        answer = loragraft("inspect", path, "--for", "vllm")
        assert answer.code == 2
        assert "is no adapter" in answer.error
    with pytest.raises(UsageError, match="--for ollama"):
        inspect(base, engine="ollama")


def test_without_the_package(
    monkeypatch: pytest.MonkeyPatch, built: Callable[[str], Path], tmp_path: Path
) -> None:
    base = built("llama")
    stored = models.write(tmp_path / "m.gguf", models.read(base))
    export(adapter_of(tmp_path / "a", base), tmp_path / "a.gguf", base=base)
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert inspect(stored).kind is Subject.CHECKPOINT
    assert inspect(tmp_path / "a.gguf", engine="llama.cpp").kind is Subject.ADAPTER


def test_a_hostile_architecture_reaches_no_terminal(
    loragraft: CommandLine, tmp_path: Path, built: Callable[[str], Path]
) -> None:
    arch = "\x1b[31mred\n"
    pairs = {"blk.0.attn_q.weight": (random(64, 2), random(2, 64))}
    adapter = gguf_adapter(tmp_path / "a.gguf", built("llama"), pairs, arch=arch)
    model = tmp_path / "m.gguf"
    entries = [entry("general.architecture", STRING, string(arch))]
    model.write_bytes(raw_gguf(entries, [tensor("blk.0.attn_q.weight", (8, 1))], bytes(32)))
    for arguments in ((adapter,), (adapter, "--for", "llama.cpp"), (model,)):
        answer = loragraft("inspect", *arguments)
        assert answer.code == 0
        assert "\x1b" not in answer.out
        assert json.dumps(arch)[1:-1] in loragraft("inspect", *arguments, "--json").out

"""A handful of changed or new tokens as rows, as the real PEFT loads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from loragraft.adapter.contents import whole_tensors
from loragraft.adapter.engines import engine_warnings
from loragraft.adapter.peft import read_adapter
from loragraft.adapter.tokens import changed_rows, handful, row_spans
from loragraft.adapter.whole_plan import SaveWhole, offers, plan_whole
from loragraft.checkpoint import open_checkpoint
from loragraft.dtypes import from_float32
from loragraft.tensor_bytes import TensorBytes
from whole_files import (
    DEPRECATED,
    RANK,
    VOCABULARY,
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

pytestmark = pytest.mark.filterwarnings(f"ignore:{DEPRECATED}:FutureWarning")
Q = "model.layers.0.self_attn.q_proj"
ROWS = (3, 21, 22, 70)


def move_rows(*rows: int, head: tuple[int, ...] = ()) -> Callable[[Any], object]:
    def change(model: Any) -> None:
        model.get_input_embeddings().weight[list(rows)] += 1.0
        if head:
            model.get_output_embeddings().weight[list(head)] += 1.0

    return change


@pytest.mark.parametrize(
    ("family", "module", "embedding"),
    [
        ("llama", Q, "model.embed_tokens"),
        ("qwen2", Q, "model.embed_tokens"),
        ("gemma3_text", Q, "model.embed_tokens"),
        ("gpt2", "transformer.h.0.attn.c_attn", "transformer.wte"),
    ],
)
def test_changed_rows_are_replaced(
    family: str, module: str, embedding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = tune(build(family, tmp_path / "base"), tmp_path / "tuned", (module,), move_rows(*ROWS))
    plan = make_plan(pair, SaveWhole.EMBEDDINGS)
    assert plan.config == {"trainable_token_indices": {embedding: list(ROWS)}}
    assert list(plan.saved.values()) == ["4 rows, by trainable_token_indices"]
    assert plan.rows is None
    (tensor,) = plan.tensors
    assert tensor.shape[0] == len(ROWS)
    # 21 and 22 are neighbours.
    assert len(tensor.spans) == 3
    adapter = write_adapter(tmp_path / "out", pair, plan)
    merged = check(pair, adapter, monkeypatch)
    if family != "llama":
        assert merged.lm_head.weight is merged.get_input_embeddings().weight


def test_rows_of_embedding_and_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change = move_rows(*ROWS, head=(5, 40))
    pair = tune(build("llama", tmp_path / "base"), tmp_path / "tuned", (Q,), change)
    with TensorBytes() as reader:
        told = offers(candidates_of(pair), SaveWhole.NORMS, unchanged(pair), reader)
    assert told == [
        "--save-whole embeddings would carry lm_head.weight (2 rows, by trainable_token_indices)"
        " and 1 more"
    ]
    plan = make_plan(pair, SaveWhole.ALL)
    assert plan.config == {
        "trainable_token_indices": {"model.embed_tokens": list(ROWS), "lm_head": [5, 40]}
    }
    adapter = write_adapter(tmp_path / "out", pair, plan)
    check(pair, adapter, monkeypatch)
    read = read_adapter(adapter)
    found = whole_tensors(read.config, read.other_tensors)
    assert {name: rows.tokens for name, rows in found.tokens.items()} == {
        "model.embed_tokens": ROWS,
        "lm_head": (5, 40),
    }
    assert not found.modules
    assert not found.strays


def test_more_than_a_handful_is_saved_whole(tmp_path: Path) -> None:
    rows = tuple(range(10, 17))
    pair = tune(build("llama", tmp_path / "base"), tmp_path / "tuned", (Q,), move_rows(*rows))
    plan = make_plan(pair, SaveWhole.EMBEDDINGS)
    assert plan.config == {"modules_to_save": ["model.embed_tokens"]}
    assert handful(VOCABULARY) == 5


def test_before_a_run_all_of_an_embedding_counts(tmp_path: Path) -> None:
    pair = tune(build("llama", tmp_path / "base"), tmp_path / "tuned", (Q,), move_rows(*ROWS))
    plan = plan_whole(candidates_of(pair), SaveWhole.EMBEDDINGS, unchanged(pair), None)
    assert plan.config == {"modules_to_save": ["model.embed_tokens"]}


def test_head_with_bias_is_saved_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PEFT leaves out the bias of a head whose rows it replaces."""
    change = move_rows(3, head=(5, 40))
    pair = tune(build("phi", tmp_path / "base"), tmp_path / "tuned", (Q,), change)
    plan = make_plan(pair, SaveWhole.EMBEDDINGS)
    assert plan.config["modules_to_save"] == ["lm_head"]
    assert {tensor.key for tensor in plan.tensors} >= {
        "base_model.model.lm_head.bias",
        "base_model.model.lm_head.weight",
    }
    check(pair, write_adapter(tmp_path / "out", pair, plan), monkeypatch)


def grow(model: Any) -> None:
    model.resize_token_embeddings(VOCABULARY + 3, mean_resizing=False)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("whole", [False, True])
def test_vocabulary_that_grew(
    family: str, whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(model: Any) -> None:
        grow(model)
        for weight in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
            generator = torch.Generator().manual_seed(7)
            weight[VOCABULARY:] = torch.randn(3, weight.shape[1], generator=generator)
        move_rows(*(range(10, 40) if whole else (20,)))(model)

    pair = tune(build(family, tmp_path / "base"), tmp_path / "tuned", (Q,), change)
    plan = make_plan(pair, SaveWhole.EMBEDDINGS)
    new = [VOCABULARY, VOCABULARY + 1, VOCABULARY + 2]
    assert plan.rows == VOCABULARY + 3
    rows = plan.config.get("trainable_token_indices", {})
    if not whole:
        assert rows["model.embed_tokens"] == [20, *new]
    if family == "llama":
        assert rows["lm_head"] == new
    adapter = write_adapter(tmp_path / "out", pair, plan)
    tokens = torch.tensor([[20, 5, *new, 31]])
    check(pair, adapter, monkeypatch, prepare=grow, tokens=tokens)


def test_vocabulary_that_shrank_to_what_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows replace those of the base, whose surplus stays."""
    pair = tune(build("qwen2", tmp_path / "base"), tmp_path / "tuned", (Q,), move_rows(*ROWS))
    base = open_checkpoint(pair.base).tensors["model.embed_tokens.weight"]
    tuned = open_checkpoint(pair.tuned).tensors["model.embed_tokens.weight"]
    with TensorBytes() as reader:
        fewer = type(tuned)(
            tuned.name, tuned.dtype, (500, 16), tuned.path, tuned.offset, 500 * 64, tuned.identity
        )
        assert changed_rows(reader, base, fewer, 5) == ROWS
        assert changed_rows(reader, fewer, base, 5) is None
        assert changed_rows(reader, fewer, base, 16) == (*ROWS, *range(500, 512))


@pytest.mark.parametrize(("base_dtype", "tuned_dtype"), [("F32", "BF16"), ("F16", "F32")])
def test_sides_of_two_dtypes_are_compared_by_value(
    base_dtype: str, tuned_dtype: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(2)
    # Small integers are the same in every format.
    values = rng.integers(-100, 100, (3000, 70)).astype(np.float32)
    moved = values.copy()
    moved[[0, 1500, 2999], 7] += 1.0
    entries = []
    for name, array, code in (("base", values, base_dtype), ("tuned", moved, tuned_dtype)):
        stored = from_float32(array, code)
        path = tmp_path / f"{name}.safetensors"
        save_file({"wte.weight": stored}, path)
        entry = open_checkpoint(path).tensors["wte.weight"]
        # The official writer knows no BF16 of NumPy.
        entries.append(type(entry)(entry.name, code, entry.shape, path, entry.offset, entry.nbytes))
    with TensorBytes() as reader:
        assert changed_rows(reader, *entries, 30) == (0, 1500, 2999)
        assert changed_rows(reader, *entries, 2) is None
        assert changed_rows(reader, entries[0], entries[0], 0) == ()


def test_spans_of_rows(tmp_path: Path) -> None:
    save_file({"wte.weight": np.zeros((8, 3), np.float16)}, tmp_path / "a.safetensors")
    entry = open_checkpoint(tmp_path / "a.safetensors").tensors["wte.weight"]
    assert row_spans(entry, (0, 1, 4, 6, 7)) == ((0, 12), (24, 30), (36, 48))
    assert row_spans(entry, ()) == ()


def test_engines_that_refuse_rows() -> None:
    config = {"r": RANK, "lora_alpha": RANK, "trainable_token_indices": {"model.embed_tokens": [3]}}
    vllm, sglang, llama = engine_warnings(config)
    assert vllm == "vLLM refuses the adapter for its token rows (trainable_token_indices)"
    assert sglang.startswith("SGLang does not apply token rows")
    assert llama.startswith("llama.cpp's converter refuses")

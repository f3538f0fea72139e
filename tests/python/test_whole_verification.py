"""What is carried beside factors, compared with TUNED and told by kind."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import lora_files
from loragraft.adapter.delta import slabs
from loragraft.errors import FormatError
from loragraft.inspection import inspect
from loragraft.verification import verify
from whole_files import DEPRECATED, build, tune
from whole_merges import (
    Q,
    move_rows,
    pair_of,
    rewrite,
    scale,
    taken,
)

if TYPE_CHECKING:
    from pathlib import Path


FILE = "model.safetensors"
pytestmark = pytest.mark.filterwarnings(f"ignore:{DEPRECATED}:FutureWarning")


def test_what_is_not_as_in_tuned(tmp_path: Path) -> None:
    pair = pair_of(tmp_path, "qwen2", lambda model: (move_rows()(model), scale("norm")(model)))
    report = taken(pair, tmp_path / "out")
    rows = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
    norm = "base_model.model.model.norm.weight"

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[rows][1, 2] += 1.0
        tensors[norm] = tensors[norm].view(torch.int32)

    rewrite(tmp_path / "out", change)
    checked = verify(pair.base, pair.tuned, tmp_path / "out")
    found = {row.name: (row.outcome.value, row.why) for row in checked.tensors}
    assert found["model.embed_tokens.weight"] == (
        "left_out",
        "4 rows, by trainable_token_indices, but not as in TUNED",
    )
    assert found["model.norm.weight"][0] == "left_out"
    saved = report.summary.counts["saved_whole"]
    assert checked.summary.counts["saved_whole"] == saved - 2
    assert checked.summary.warnings == (
        "tensors that the adapter carries are not as in TUNED: 2, such as"
        " model.embed_tokens.weight, model.norm.weight",
    )


def test_rows_that_leave_others_behind(tmp_path: Path) -> None:
    """A row that changed and is not carried, and one that tuning left alone and is."""
    pair = pair_of(tmp_path, "llama", move_rows())
    taken(pair, tmp_path / "out")
    path = tmp_path / "out" / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["trainable_token_indices"]["model.embed_tokens"][0] = 4
    path.write_text(json.dumps(config), encoding="utf-8")
    checked = verify(pair.base, pair.tuned, tmp_path / "out")
    assert checked.summary.counts["saved_whole"] == 0
    config["trainable_token_indices"]["model.embed_tokens"][0] = 21
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(FormatError, match=r"gives a token of model\.embed_tokens twice"):
        verify(pair.base, pair.tuned, tmp_path / "out")


def test_a_tensor_that_tuning_left_alone(tmp_path: Path) -> None:
    pair = pair_of(tmp_path, "llama", scale(r"layers\.1\.input_layernorm"))
    taken(pair, tmp_path / "out")
    key = "base_model.model.model.layers.0.input_layernorm.weight"
    rewrite(tmp_path / "out", lambda tensors: tensors[key].add_(1.0))
    checked = verify(pair.base, pair.tuned, tmp_path / "out")
    row = next(r for r in checked.tensors if r.name == key.removeprefix("base_model.model."))
    assert (row.outcome, row.why) == (
        "left_out",
        "whole, by modules_to_save, but not as in TUNED",
    )


def test_inspection_tells_kinds(tmp_path: Path) -> None:
    pair = pair_of(
        tmp_path, "qwen2", lambda model: (move_rows()(model), scale(r"norm|_proj\.bias")(model))
    )
    taken(pair, tmp_path / "out")
    found = inspect(tmp_path / "out")
    assert found.others == {
        "of whole input_layernorm": 2,
        "of whole post_attention_layernorm": 2,
        "of whole norm": 1,
        "bias of q_proj": 2,
        "bias of k_proj": 2,
        "bias of v_proj": 2,
        "with 4 token rows of embed_tokens": 1,
    }
    assert any("merge applies" in problem for problem in found.problems)
    more = {"base_model.model.model.norm.weight": np.ones(24, np.float32)}
    factors = lora_files.random_factors((lora_files.Q0,), 2)
    odd = lora_files.write_adapter(tmp_path / "odd", factors, more=more)
    assert inspect(odd).others == {"no LoRA factor": 1}


@pytest.mark.parametrize("slab", [64, 1 << 22])
def test_rows_of_two_dtypes(slab: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are not carried are compared by value, slab by slab."""
    base = build("llama", tmp_path / "base")
    tensors = load_file(base / FILE)
    embedding = "model.embed_tokens.weight"
    # Small integers are the same in both formats.
    tensors[embedding] = (10 * tensors[embedding]).round()
    save_file(tensors, base / FILE, metadata={"format": "pt"})
    pair = tune(base, tmp_path / "tuned", (Q,), move_rows())
    narrow = {n: t.to(torch.bfloat16) for n, t in load_file(pair.tuned / FILE).items()}
    save_file(narrow, pair.tuned / FILE, metadata={"format": "pt"})
    report = taken(pair, tmp_path / "out", "embeddings")
    monkeypatch.setattr(
        "loragraft.verification.whole.slabs", lambda rows, columns: slabs(rows, columns, slab)
    )
    checked = verify(pair.base, pair.tuned, tmp_path / "out")
    assert checked.summary.counts == report.summary.counts
    assert next(r.outcome for r in checked.tensors if r.name == embedding) == "saved_whole"
    narrow[embedding][200, 3] += 1.0
    save_file(narrow, pair.tuned / FILE, metadata={"format": "pt"})
    checked = verify(pair.base, pair.tuned, tmp_path / "out")
    assert next(r.outcome for r in checked.tensors if r.name == embedding) == "left_out"


@pytest.mark.parametrize(("ours", "theirs", "saved"), [(512, 500, True), (500, 512, False)])
def test_rows_that_one_side_lacks(ours: int, theirs: int, saved: bool, tmp_path: Path) -> None:
    """A surplus of the base's stays; new rows have to be carried."""
    pair = pair_of(tmp_path, "qwen2", move_rows())
    taken(pair, tmp_path / "out", "embeddings")
    embedding = "model.embed_tokens.weight"
    for directory, rows in ((pair.base, ours), (pair.tuned, theirs)):
        tensors = load_file(directory / FILE)
        tensors[embedding] = tensors[embedding][:rows].clone()
        save_file(tensors, directory / FILE, metadata={"format": "pt"})
    checked = verify(pair.base, pair.tuned, tmp_path / "out")
    row = next(r for r in checked.tensors if r.name == embedding)
    assert row.outcome == ("saved_whole" if saved else "left_out")

"""Extractions that carry more than factors, merged by us and by the real PEFT."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from loragraft import extract
from loragraft.errors import MismatchError
from loragraft.inspection import inspect
from loragraft.merging import merge
from loragraft.verification import verify
from whole_files import DEPRECATED, build, tune

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from loragraft.report.model import Report
    from whole_files import Pair

Q = "model.layers.0.self_attn.q_proj"
ADAPTED = {"gpt2": "transformer.h.0.attn.c_attn"}
ROWS = (3, 21, 22, 70)
#: float32 sums of four products of order 1, in another order than PEFT's.
BOUND = 1e-6


def scale(pattern: str) -> Callable[[torch.nn.Module], object]:
    def change(model: torch.nn.Module) -> None:
        for name, parameter in model.named_parameters():
            if re.search(pattern, name):
                parameter.mul_(1.3).add_(0.05)

    return change


def move_rows(*head: int) -> Callable[[Any], object]:
    def change(model: Any) -> None:
        model.get_input_embeddings().weight[list(ROWS)] += 1.0
        if head:
            model.get_output_embeddings().weight[list(head)] += 1.0

    return change


def pair_of(tmp_path: Path, family: str, change: Callable[[Any], object], **config: Any) -> Pair:
    base = build(family, tmp_path / "base", **config)
    return tune(base, tmp_path / "tuned", (ADAPTED.get(family, Q),), change)


def taken(pair: Pair, out: Path, what: str = "all", **options: Any) -> Report:
    """Extract with all that changed beside the factors."""
    settings = {"rank": 4, "dtype": "fp32", **options}
    return extract(pair.base, pair.tuned, out, save_whole=what, **settings).report


def peft_merged(
    base: Path, adapter: Path, dtype: torch.dtype, auto: Any = AutoModelForCausalLM
) -> dict[str, torch.Tensor]:
    model = auto.from_pretrained(base, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=DEPRECATED)
        loaded = PeftModel.from_pretrained(model, adapter)
    merged: dict[str, torch.Tensor] = loaded.merge_and_unload().state_dict()
    return merged


def check_merge(
    base: Path, adapter: Path, out: Path, auto: Any = AutoModelForCausalLM
) -> dict[str, torch.Tensor]:
    """Merge and compare with PEFT: what has no factors bit by bit."""
    result = merge(base, adapter, out)
    dtype = torch.float32
    ours = auto.from_pretrained(out, dtype=dtype).state_dict()
    want = peft_merged(base, adapter, dtype, auto)
    before = auto.from_pretrained(base, dtype=dtype).state_dict()
    factored = {module.name.removesuffix(".weight") for module in inspect(adapter).modules}
    assert ours.keys() == want.keys()
    replaced = 0
    for name, value in want.items():
        assert ours[name].dtype == dtype
        if name in factored or name.removesuffix(".weight") in factored:
            torch.testing.assert_close(ours[name], value, rtol=0, atol=BOUND)
        else:
            assert torch.equal(ours[name], value), name
            replaced += not torch.equal(value, before[name])
    assert replaced
    assert result.replaced
    return ours


def check_all(pair: Pair, tmp_path: Path, what: str = "all", **options: Any) -> Report:
    """Extract, verify, merge; return what verify says."""
    report = taken(pair, tmp_path / "out", what, **options)
    checked = verify(pair.base, pair.tuned, tmp_path / "out")
    assert checked.summary.counts == report.summary.counts
    assert checked.summary.warnings == ()
    assert {r.name: r.outcome for r in checked.tensors} == {
        r.name: r.outcome for r in report.tensors
    }
    said = {row.name: row.why for row in report.tensors if row.outcome == "saved_whole"}
    assert {r.name: r.why for r in checked.tensors if r.outcome == "saved_whole"} == said
    assert said
    check_merge(pair.base, tmp_path / "out", tmp_path / "merged")
    # What was carried is as in TUNED now.
    after = verify(pair.base, tmp_path / "merged", tmp_path / "out")
    assert after.summary.counts["saved_whole"] == len(said)
    return checked


def refused(base: Path, adapter: Path, out: Path, pattern: str) -> None:
    with pytest.raises(MismatchError, match=pattern):
        merge(base, adapter, out)
    assert not out.exists()


def rewrite(adapter: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})

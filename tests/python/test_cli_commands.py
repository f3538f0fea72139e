"""``loragraft verify``, ``inspect`` and ``merge``."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from command_line import CommandLine, loragraft, pair
from hostile_safetensors import MALFORMED
from lora_files import DOWN0, SHAPES, random_factors, read_checkpoint, write_adapter

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["loragraft", "pair"]

Pair = "tuple[Path, Path, Path]"


def spoil_adapter(adapter: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values()))[0, 0] = np.nan
    save_file(tensors, path)


# verify


def test_verify(loragraft: CommandLine, pair: Pair):
    answer = loragraft("verify", *pair)
    assert (answer.code, answer.err) == (0, "")
    for text in ("down_proj", "bit-exact", "unchanged", "reproduces"):
        assert text in answer.out
    data = loragraft("verify", *pair, "--json").data
    assert data["command"] == "verify"
    assert len(data["tensors"]) == len(SHAPES)
    assert all(module["optimal_error"] is None for module in data["modules"])
    assert not any("singular_values" in module for module in data["modules"])


def test_verify_with_the_optimum(loragraft: CommandLine, pair: Pair):
    data = loragraft("verify", *pair, "--optimum", "--json").data
    for module in data["modules"]:
        assert 0 < module["optimal_error"] <= module["relative_error"]


def test_verify_checks_what_extract_claims(loragraft: CommandLine, pair: Pair, tmp_path: Path):
    out = tmp_path / "out"
    assert loragraft("extract", *pair[:2], "-o", out, "--rank", 2).code == 0
    answer = loragraft("verify", *pair[:2], out, "--json")
    assert answer.data["claims"]["checked"] == 3
    assert answer.data["claims"]["worst_difference"] < 1e-6
    assert answer.err == ""
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    report["modules"][0]["relative_error"] /= 2
    (out / "report.json").write_text(json.dumps(report), encoding="utf-8")
    answer = loragraft("verify", *pair[:2], out)
    assert answer.code == 0
    (line,) = answer.err.splitlines()
    assert line.startswith("loragraft: warning: ")
    assert "! " not in answer.out, "the warning is on stderr"


def test_verify_refuses(loragraft: CommandLine, pair: Pair, tmp_path: Path):
    answer = loragraft("verify", *pair[:2], tmp_path / "nowhere")
    assert answer.code == 3
    assert "expected a PEFT adapter" in answer.error
    rows, columns = SHAPES[f"{DOWN0}.weight"]
    other = {DOWN0: (np.ones((rows + 1, 2), np.float32), np.ones((2, columns), np.float32))}
    write_adapter(tmp_path / "other", other)
    assert loragraft("verify", *pair[:2], tmp_path / "other").code == 4
    spoil_adapter(pair[2])
    answer = loragraft("verify", *pair)
    assert answer.code == 6
    assert "lora_" in answer.error


# inspect


def test_inspect_a_checkpoint(loragraft: CommandLine, pair: Pair):
    answer = loragraft("inspect", pair[0])
    assert (answer.code, answer.err) == (0, "")
    for text in ("llama", "down_proj", "24 × 56", "BF16"):
        assert text in answer.out
    data = loragraft("inspect", pair[0], "--json").data
    assert (data["schema"], data["kind"]) == ("loragraft.inspection/1", "checkpoint")
    assert data["tensors"] == len(SHAPES)


def test_inspect_an_adapter(loragraft: CommandLine, pair: Pair):
    answer = loragraft("inspect", pair[2])
    assert (answer.code, answer.err) == (0, "")
    for text in ("adapter", "rank", "scaling", "owner/toy"):
        assert text in answer.out
    assert loragraft("inspect", pair[2], "--json").data["ranks"] == {"3": 3}


def test_inspect_an_adapter_with_nan_is_json_still(loragraft: CommandLine, pair: Pair):
    spoil_adapter(pair[2])
    data = loragraft("inspect", pair[2], "--json").data
    assert "Modules with NaN or Inf: 1" in data["problems"][0]


@pytest.mark.parametrize("which", sorted(MALFORMED)[::10])
def test_inspect_refuses_malformed_files(loragraft: CommandLine, tmp_path: Path, which: str):
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(MALFORMED[which])
    answer = loragraft("inspect", bad)
    assert (answer.code, answer.out) == (3, "")
    assert "bad.safetensors" in answer.error


def test_a_shard_outside_the_directory_is_refused(
    loragraft: CommandLine, pair: Pair, tmp_path: Path
):
    (tmp_path / "escape").mkdir()
    index = {"weight_map": {"a": "../base/model.safetensors"}}
    path = tmp_path / "escape" / "model.safetensors.index.json"
    path.write_text(json.dumps(index), encoding="utf-8")
    answer = loragraft("inspect", tmp_path / "escape")
    assert answer.code == 3
    assert "../base/model.safetensors" in answer.error


# merge


def test_merge(loragraft: CommandLine, pair: Pair, tmp_path: Path):
    base, _, adapter = pair
    out = tmp_path / "merged"
    answer = loragraft("merge", base, adapter, "-o", out)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("Merged 3 modules into ")
    # The merged weights are what verify calls bit-exact.
    data = loragraft("verify", base, out, adapter, "--json").data
    assert data["summary"]["bit_exact"] == 1.0
    data = loragraft("merge", base, adapter, "-o", tmp_path / "again", "--json").data
    assert (data["schema"], data["modules"]) == ("loragraft.merge/1", 3)


def test_merge_to_another_dtype_and_by_force(loragraft: CommandLine, pair: Pair, tmp_path: Path):
    arguments = ("merge", pair[0], pair[2], "-o", tmp_path / "merged")
    assert loragraft(*arguments, "-q").out == ""
    answer = loragraft(*arguments, "--dtype", "fp32")
    assert answer.code == 2
    assert "--force" in answer.error
    assert loragraft(*arguments, "--dtype", "fp32", "--force").code == 0
    weights = read_checkpoint(tmp_path / "merged")
    assert {weight.dtype for weight in weights.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ("nothing", 2, "-o OUT is missing"),
        ("shape", 4, "down_proj"),
        ("saved", 4, "no LoRA factors"),
        ("nan", 6, "NaN"),
        ("gone", 3, "adapter_config.json"),
    ],
)
def test_merge_refuses(
    loragraft: CommandLine, pair: Pair, tmp_path: Path, change: str, code: int, said: str
):
    base, _, adapter = pair
    out: Path | str = tmp_path / "made" / "merged"
    if change == "nothing":
        out = ""
    elif change == "shape":
        factors = {DOWN0: (np.ones((5, 2), np.float32), np.ones((2, 5), np.float32))}
        adapter = write_adapter(tmp_path / "other", factors)
    elif change == "saved":
        more = {"base_model.model.lm_head.weight": np.ones((40, 24), np.float32)}
        adapter = write_adapter(tmp_path / "other", random_factors((DOWN0,), 2), more=more)
    elif change == "nan":
        spoil_adapter(adapter)
    else:
        (adapter / "adapter_config.json").unlink()
    answer = loragraft("merge", base, adapter, "-o", out)
    assert (answer.code, answer.out) == (code, "")
    assert said in answer.error
    assert not (tmp_path / "made").exists()


def test_merge_tells_early_that_the_disk_is_too_small(
    loragraft: CommandLine, pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    answer = loragraft("merge", pair[0], pair[2], "-o", tmp_path / "merged")
    assert answer.code == 3
    assert "free some space" in answer.error
    assert not (tmp_path / "merged").exists()

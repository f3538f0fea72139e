"""``loragraft export``, and what other commands say of GGUF files."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import gguf_models as models
import llama_models
import mixed_adapters as mixed
from command_line import CommandLine, loragraft
from test_export import gguf_adapter, in_k_quants, random

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["loragraft"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama_models.build("llama", tmp_path_factory.mktemp("base") / "hf")


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    linears = [one for one in mixed.modules_of(base) if "q_proj" in one.name]
    mixed.write(tmp_path / "adapter", base, linears)
    return tmp_path / "adapter"


@pytest.fixture
def stored(base: Path, tmp_path: Path) -> Path:
    """The base as a GGUF."""
    return models.write(tmp_path / "base.gguf", models.read(base))


def test_table_and_json(loragraft: CommandLine, base: Path, adapter: Path, tmp_path: Path) -> None:
    answer = loragraft("export", adapter, "--base", base, "-o", tmp_path / "out.gguf")
    assert (answer.code, answer.err) == (0, "")
    assert "Wrote 2 pairs to" in answer.out
    assert "multiplied into lora_b" in answer.out
    answer = loragraft("export", adapter, "--base", base, "-o", tmp_path / "out", "--json")
    assert (answer.code, answer.err) == (0, "")
    data = answer.data
    assert data["schema"] == "loragraft.export/1"
    assert data["command"] == "export"
    path = tmp_path / "out" / "adapter.gguf"
    assert data["output"] == str(path)
    assert data["bytes_written"] == path.stat().st_size
    assert (data["modules"], data["dtypes"], data["alpha"]) == (2, {"F32": 2}, 0.0)
    assert data["folded"] is True
    answer = loragraft(
        "export", path, "--base", base, "-o", tmp_path / "back", "--format", "peft", "-q"
    )
    assert (answer.code, answer.out, answer.err) == (0, "", "")
    answer = loragraft(
        "export", adapter, "--base", base, "-o", tmp_path / "p", "--format", "per-expert"
    )
    assert "Wrote 2 modules to" in answer.out
    card = (tmp_path / "p" / "README.md").read_text(encoding="utf-8")
    assert "loragraft export --format per-expert" in card


def test_usage(loragraft: CommandLine, base: Path, adapter: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    common = ("export", adapter, "--base", base)
    assert loragraft(*common, "-o", out).code == 0
    before = out.read_bytes()
    answer = loragraft(*common, "-o", out)
    assert answer.code == 2
    assert "out.gguf: exists; choose another name, or --force" in answer.error
    assert loragraft(*common, "-o", out, "--force", "-q").code == 0
    assert out.read_bytes() == before
    assert (
        "is a GGUF already" in loragraft("export", out, "--base", base, "-o", tmp_path / "x").error
    )
    for more in (("--format", "onnx"), ("--dtype", "int8"), ()):
        answer = loragraft(*common, *more, *(("-o", tmp_path / "y") if more else ()))
        assert answer.code == 2
        assert answer.error
    directory = tmp_path / "dir.gguf"
    directory.mkdir()
    assert loragraft(*common, "-o", directory).code == 2
    assert loragraft(*common, "-o", directory, "--force").code in {2, 3}
    assert directory.is_dir()
    assert not list(directory.iterdir())
    (tmp_path / "file").write_text("x")
    assert loragraft(*common, "-o", tmp_path / "file").code == 2
    assert loragraft("export", adapter, "-o", tmp_path / "z").code == 2


def test_unreadable(loragraft: CommandLine, base: Path, adapter: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for number, more in enumerate(
        ({"type": "model"}, {"adapter": "control_vector"}, {"arch": "llama\x00"}, {})
    ):
        pairs = {"blk.0.attn_q.weight": (random(64, 2), random(2, 64))} if more else {}
        path = gguf_adapter(tmp_path / f"{number}.gguf", base, pairs, **more)
        answer = loragraft("export", path, "--base", base, "-o", out, "--format", "peft")
        assert answer.code == (4 if "arch" in more else 3), more
        assert f"{number}.gguf" in answer.error
        if "arch" in more:
            assert "'llama\\x00'" in answer.error
    (tmp_path / "cut.gguf").write_bytes(b"GGUF\x03\0\0\0")
    for bad in (tmp_path / "cut.gguf", tmp_path / "none.gguf", tmp_path / "none"):
        answer = loragraft("export", bad, "--base", base, "-o", out, "--format", "peft")
        assert answer.code == 3
        assert answer.error
    answer = loragraft("export", adapter, "--base", tmp_path / "cut.gguf", "-o", out)
    assert answer.code == 3
    assert "cut.gguf" in answer.error
    (adapter / "adapter_config.json").write_text("{}")
    assert loragraft("export", adapter, "--base", base, "-o", out).code == 3
    assert not out.exists()


def test_mismatch_and_nothing(loragraft: CommandLine, base: Path, tmp_path: Path) -> None:
    pair = (random(64, 2), random(2, 64))
    other = gguf_adapter(tmp_path / "q.gguf", base, {"blk.0.attn_q.weight": pair}, arch="qwen2")
    options = ("--base", base, "-o", tmp_path / "out", "--format", "peft")
    answer = loragraft("export", other, *options)
    assert answer.code == 4
    assert "qwen2" in answer.error
    assert "is llama" in answer.error
    alien = gguf_adapter(tmp_path / "a.gguf", base, {"blk.7.attn_q.weight": pair})
    answer = loragraft("export", alien, *options, "--json")
    assert answer.code == 4
    assert "--skip-unsupported" in answer.error
    assert answer.data["error"]["exit_code"] == 4
    answer = loragraft("export", alien, *options, "--skip-unsupported")
    assert answer.code == 5
    assert "nothing is left to write of 1 module" in answer.error
    broken = random(64, 2)
    broken[0, 0] = np.inf
    bad = gguf_adapter(tmp_path / "n.gguf", base, {"blk.0.attn_q.weight": (broken, pair[1])})
    assert loragraft("export", bad, *options).code == 6
    assert not (tmp_path / "out").exists()


def test_without_the_package(
    loragraft: CommandLine, base: Path, adapter: Path, stored: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """What needs it says so before the work; what does not works."""
    path = gguf_adapter(
        tmp_path / "a.gguf", base, {"blk.0.attn_q.weight": (random(64, 2), random(2, 64))}
    )
    monkeypatch.setitem(sys.modules, "gguf", None)
    out = tmp_path / "out"
    for arguments in (
        ("export", adapter, "--base", base, "-o", out),
        ("export", path, "--base", base, "-o", out, "--format", "peft"),
        ("export", adapter, "--base", stored, "-o", out),
        ("extract", base, base, "-o", out, "--format", "gguf"),
        ("extract", stored, stored, "-o", out),
        ("verify", stored, stored, adapter),
    ):
        answer = loragraft(*arguments)
        assert answer.code == 8, arguments
        assert "pip install 'loragraft[gguf]'" in answer.error
        assert not out.exists()
    for arguments in (
        ("export", adapter, "--base", base, "-o", out, "--format", "peft"),
        ("inspect", path, "--for", "llama.cpp"),
        ("inspect", stored),
    ):
        assert loragraft(*arguments).code == 0, arguments


def test_quantised_models(loragraft: CommandLine, base: Path, tmp_path: Path) -> None:
    """As BASE of an extraction they cannot be read; the message says what can."""
    coarse = models.write(tmp_path / "q4.gguf", models.read(base), store=in_k_quants)
    for sides in ((coarse, base), (base, coarse), (coarse, coarse)):
        for command in (
            ("extract", *sides, "-o", tmp_path / "out"),
            ("extract", *sides, "--dry-run"),
        ):
            answer = loragraft(*command)
            assert answer.code == 3, answer.err
            for word in ("q4.gguf", "Q4_0", "Q8_0", "F16"):
                assert word in answer.error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["merge", "transfer", "evaluate", "compare"])
def test_commands_that_read_no_gguf(
    loragraft: CommandLine, base: Path, adapter: Path, stored: Path, tmp_path: Path, command: str
) -> None:
    out = tmp_path / "out"
    arguments = {
        "merge": [(stored, adapter, "-o", out)],
        "transfer": [
            (adapter, "--source", stored, "--target", base, "-o", out),
            (adapter, "--source", base, "--target", stored, "-o", out),
        ],
        "evaluate": [(stored, "-o", out)],
        "compare": [(stored, base), (base, stored)],
    }[command]
    for each in arguments:
        answer = loragraft(command, *each)
        assert answer.code == 3, answer.err
        assert "base.gguf" in answer.error
        assert "safetensors" in answer.error
    assert not out.exists()


def test_gguf_adapters_where_peft_ones_are_wanted(
    loragraft: CommandLine, base: Path, tmp_path: Path
) -> None:
    pairs = {"blk.0.attn_q.weight": (random(64, 2), random(2, 64))}
    path = gguf_adapter(tmp_path / "a.gguf", base, pairs)
    for command in (("merge", base, path, "-o", tmp_path / "o"), ("verify", base, base, path)):
        answer = loragraft(*command)
        assert answer.code == 3
        assert "loragraft export" in answer.error


def test_alpha_that_is_no_number(loragraft: CommandLine, base: Path, tmp_path: Path) -> None:
    """Alpha is a number, whatever the file says."""
    for number, alpha in enumerate((float("nan"), float("inf"))):
        pairs = {"blk.0.attn_q.weight": (random(64, 2), random(2, 64))}
        path = gguf_adapter(tmp_path / f"{number}.gguf", base, pairs, alpha=alpha)
        answer = loragraft(
            "export", path, "--base", base, "-o", tmp_path / "out", "--format", "peft"
        )
        assert answer.code == 3
        assert "adapter.lora.alpha" in answer.error


def test_a_failure_keeps_the_file_that_was_there(
    loragraft: CommandLine, base: Path, adapter: Path, tmp_path: Path
) -> None:
    for out in (tmp_path / "out.gguf", tmp_path / "dir"):
        assert loragraft("export", adapter, "--base", base, "-o", out).code == 0
    path = tmp_path / "out.gguf"
    before = path.read_bytes()
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    next(iter(tensors.values()))[0, 0] = np.nan
    save_file(tensors, file, metadata={"format": "pt"})
    for out in (path, tmp_path / "dir"):
        assert loragraft("export", adapter, "--base", base, "-o", out, "--force").code == 6
    assert path.read_bytes() == before
    assert (tmp_path / "dir" / "adapter.gguf").read_bytes() == before

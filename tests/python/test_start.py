"""What a command loads before and while it works: nothing in vain."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest

import loragraft as package
from command_line import LLAMA, SMALL, pair, write_pair
from lora_files import CONFIG

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["pair"]

#: What no command needs as long as everything lies on this machine.
NEVER = (
    "asyncio",
    "decimal",
    "gguf",
    "huggingface_hub",
    "peft",
    "pydantic",
    "random",
    "requests",
    "secrets",
    "statistics",
    "tempfile",
    "torch",
    "transformers",
    "typer.rich_utils",
    "unittest",
)
NUMPY = ("numpy",)
RICH = ("rich",)
VERSIONS = ("email", "importlib.metadata")
NATIVE = ("loragraft._core",)
HEAVY = (*NEVER, *NUMPY, *RICH, *VERSIONS, *NATIVE, "jinja2", "plotly")
#: What report.html takes: Jinja2 with what it needs, and medians. Plotly is read, not imported.
PAGE = ("jinja2", "random", "tempfile", "statistics", "decimal")
#: NumPy has needs of its own.
WITH_NUMPY = (*NUMPY, "random", "secrets", "tempfile", "unittest", "decimal", "statistics")
#: One transposed layer, as GPT-2 stores them.
GPT2 = {"h.0.mlp.c_fc.weight": (24, 40), "h.0.ln_1.weight": (24,)}

#: Ends as the command does, and leaves on stderr what it loaded.
START = """
import sys
before = set(sys.modules)
from loragraft.cli import main
try:
    main()
finally:
    print("LOADED", *sorted(sys.modules.keys() - before), file=sys.stderr)
"""


def loaded(*arguments: object, code: int = 0) -> set[str]:
    """Run a command in a process of its own; return the names of the modules it loaded."""
    done = subprocess.run(
        [sys.executable, "-c", START, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={k: v for k, v in os.environ.items() if k not in {"COLUMNS", "FORCE_COLOR"}},
    )
    assert done.returncode == code, done.stderr
    return set(done.stderr.rpartition("LOADED ")[2].split())


def heavy(found: set[str], *, but: tuple[str, ...] = ()) -> set[str]:
    """Return what was loaded of the heavy modules beyond what is needed."""
    return found.intersection(HEAVY).difference(but)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--help"], 0), (["--version"], 0), (["extract", "--help"], 0), (["frob"], 2), ([], 2)],
)
def test_help_loads_nothing_heavy(arguments: list[str], code: int) -> None:
    assert heavy(loaded(*arguments, code=code)) == set()


def test_the_package_loads_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, loragraft; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert heavy(set(done.stdout.split())) == set()
    assert "typer" not in done.stdout.split()


@pytest.mark.parametrize("options", [[], ["--quiet"], ["--json"], ["--no-report"]])
def test_extraction_loads_the_kernels_alone(
    pair: tuple[Path, Path, Path], tmp_path: Path, options: list[str]
) -> None:
    found = loaded("extract", *pair[:2], "-o", tmp_path / "out", *SMALL, *options)
    page = () if "--no-report" in options else PAGE
    assert heavy(found, but=(*NATIVE, *page)) == set()
    # Nor other commands, nor what reads adapters and weights.
    for module in ("cli.verify", "cli.doctor", "verification", "merging", "adapter.peft", "hub"):
        assert f"loragraft.{module}" not in found


def test_a_plan_loads_nothing_that_writes(pair: tuple[Path, Path, Path]) -> None:
    found = loaded("extract", *pair[:2], *SMALL, "--dry-run")
    assert heavy(found, but=NATIVE) == set()
    assert not found & {"loragraft.safetensors_writer", "loragraft.report.card"}


def test_transposed_layers_need_no_arrays(tmp_path: Path) -> None:
    base, tuned = write_pair(tmp_path, GPT2, model_type="gpt2")
    found = loaded("extract", base, tuned, "-o", tmp_path / "out", "--rank", "4", "--no-report")
    assert heavy(found, but=NATIVE) == set()


def test_other_commands_load_what_they_need(pair: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, tuned, adapter = pair
    assert heavy(loaded("inspect", base)) == set()
    assert heavy(loaded("inspect", adapter), but=WITH_NUMPY) == set()
    assert heavy(loaded("verify", base, tuned, adapter), but=WITH_NUMPY) == set()
    assert heavy(loaded("merge", base, adapter, "-o", tmp_path / "out"), but=WITH_NUMPY) == set()
    assert heavy(loaded("inspect", adapter, "--for", "vllm"), but=WITH_NUMPY) == set()
    heads = {"num_attention_heads": 3, "num_key_value_heads": 1}
    (base / "config.json").write_text(json.dumps(CONFIG | heads), encoding="utf-8")
    to = ("--base", base, "-o")
    peft = (*to, tmp_path / "peft", "--format", "peft")
    assert heavy(loaded("export", adapter, *peft), but=WITH_NUMPY) == set()
    found = heavy(loaded("export", adapter, *to, tmp_path / "a.gguf"), but=WITH_NUMPY)
    assert found == {"gguf"}
    assert heavy(loaded("inspect", tmp_path / "a.gguf"), but=WITH_NUMPY) == set()
    some = ("--subspace-rank", "4", "--no-cache")
    between = (adapter, "--source", base, "--target", tuned, "-o", tmp_path / "moved")
    needed = (*WITH_NUMPY, *NATIVE)
    assert heavy(loaded("transfer", *between, *some), but=(*needed, *PAGE)) == set()
    # Nor does it load torch to say whether it is there.
    texts = tmp_path / "texts.txt"
    texts.write_text("one\n")
    between = (*between[:-1], tmp_path / "other")
    activations = ("--method", "activations", "--calibration", texts, "--dry-run")
    assert heavy(loaded("transfer", *between, *activations), but=needed) == set()
    assert heavy(loaded("compare", base, tuned, *some), but=needed) == set()
    assert heavy(loaded("doctor"), but=(*NATIVE, *VERSIONS, "random", "tempfile")) == set()


def test_an_error_loads_nothing_more(tmp_path: Path) -> None:
    base, _ = write_pair(tmp_path, LLAMA)
    assert heavy(loaded("inspect", tmp_path / "none.safetensors", code=3)) == set()
    found = loaded("extract", base, tmp_path / "none.safetensors", "-o", tmp_path / "out", code=3)
    assert heavy(found, but=NATIVE) == set()


def test_the_version_is_that_of_the_installation() -> None:
    assert package.__version__ == version("loragraft")


def test_only_the_command_asked_for_is_loaded() -> None:
    found = loaded("inspect", "--help")
    commands = {name for name in found if name.startswith("loragraft.cli.")}
    assert "loragraft.cli.inspect" in commands
    assert not commands & {f"loragraft.cli.{name}" for name in ("extract", "merge", "demo")}

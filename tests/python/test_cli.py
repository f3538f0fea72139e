"""What all commands share: help, errors and streams."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import loragraft as package
from command_line import CommandLine, loragraft, pair
from loragraft.cli import failure, progress

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["loragraft", "pair"]

COMMANDS = ("extract", "verify", "inspect", "merge", "export", "demo", "doctor")


def python(code: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, **options
    )


# Names


def test_public_names():
    for name in package.__all__:
        assert getattr(package, name) is not None
        assert name in dir(package)
    assert package.extract.__module__ == "loragraft.extraction.extraction"
    assert package.errors.UsageError.exit_code == 2
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = package.nothing


def test_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "loragraft", "--version"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"loragraft {package.__version__}\n"


# Help and completion


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_the_common_options(loragraft: CommandLine, command: str):
    answer = loragraft(command, "--help")
    assert (answer.code, answer.err) == (0, "")
    for option in ("--json", "-q, --quiet", "-v, --verbose"):
        assert option in answer.out


def test_help_lists_the_commands_and_exit_codes(loragraft: CommandLine):
    answer = loragraft("--help")
    assert answer.code == 0
    for command in COMMANDS:
        assert f"\n  {command} " in answer.out
    assert "Exit codes: 0 done" in answer.out


def test_help_lists_no_option_that_does_not_work(loragraft: CommandLine):
    text = loragraft("extract", "--help").out
    for later in ("--device", "--executor"):
        assert later not in text


def test_without_a_command_help_goes_to_stderr(loragraft: CommandLine):
    answer = loragraft()
    assert (answer.code, answer.out) == (2, "")
    assert "Usage: loragraft" in answer.err


def test_completion(loragraft: CommandLine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("_LORAGRAFT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "loragraft ext")
    monkeypatch.setenv("COMP_CWORD", "1")
    answer = loragraft()
    assert (answer.code, answer.out.split()) == (0, ["extract"])


def test_completion_of_values(loragraft: CommandLine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("_LORAGRAFT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "loragraft extract --dtype ")
    monkeypatch.setenv("COMP_CWORD", "3")
    assert loragraft().out.split() == ["auto", "bf16", "fp16", "fp32"]


# Errors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["frob"], "no such command 'frob'"),
        (["verfy", "a", "b", "c"], "did you mean 'verify'?"),
        (["extract", "--rnak", "3"], "no such option: --rnak"),
        (["verify", "a"], "missing argument"),
        (["merge", "a", "b"], "missing option '--output' / '-o'"),
        (["inspect", "a", "b"], "unexpected extra argument"),
        (["extract", "a", "b", "-o", "c", "--dtype", "int3"], "'int3' is not one of"),
        (["extract", "a", "b", "-o", "c", "--seed", "x"], "'--seed'"),
        (["extract", "a", "b", "-o", "c", "--\n\x1b[31m"], "no such option"),
    ],
)
def test_usage_errors_of_the_parser(loragraft: CommandLine, arguments: list[str], said: str):
    answer = loragraft(*arguments)
    assert (answer.code, answer.out) == (2, "")
    assert said in answer.error.lower()
    assert answer.error.endswith("--help")


@pytest.mark.parametrize("arguments", [["extract", "--rnak"], ["inspect", "no/where/at/all"]])
def test_errors_as_json(loragraft: CommandLine, arguments: list[str]):
    answer = loragraft(*arguments, "--json")
    assert answer.data["schema"] == "loragraft.error/1"
    assert answer.data["error"]["exit_code"] == answer.code != 0
    assert answer.data["error"]["message"] == answer.error
    assert answer.data["error"]["kind"] in {"UsageError", "FormatError"}


def _break(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def inspect(_path: str, **_: object) -> None:
        raise error

    monkeypatch.setattr("loragraft.inspection.inspect", inspect)


def test_a_surprise_is_one_line_without_traceback(
    loragraft: CommandLine, monkeypatch: pytest.MonkeyPatch
):
    _break(monkeypatch, RuntimeError("boom\n\x1b[31mred"))
    answer = loragraft("inspect", "x")
    assert answer.code == 1
    assert "internal error: RuntimeError: boom \\x1b[31mred" in answer.error
    assert "-v -v" in answer.error
    assert loragraft("inspect", "x", "--json").data["error"]["kind"] == "InternalError"


@pytest.mark.parametrize("flags", [["-v", "-v"], ["-vv"]])
def test_tracebacks_on_request(
    loragraft: CommandLine, monkeypatch: pytest.MonkeyPatch, flags: list[str]
):
    _break(monkeypatch, RuntimeError("boom"))
    assert "Traceback" not in loragraft("inspect", "x", "-v").err
    assert "Traceback" in loragraft("inspect", "x", *flags).err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (MemoryError(), 3, "out of memory"),
        (ImportError("too short", name="_core"), 8, "cannot be loaded (too short)"),
        (ImportError("no", name="loragraft._core"), 8, "cannot be loaded (no)"),
        (ImportError("no", name="other"), 1, "internal error"),
        (KeyboardInterrupt(), 7, "stopped"),
    ],
)
def test_errors_that_are_not_ours(
    loragraft: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    said: str,
):
    _break(monkeypatch, error)
    answer = loragraft("inspect", "x")
    assert answer.code == code
    assert said in answer.error


def test_a_line_stays_a_line():
    assert failure.one_line("a\nb\x1b[0m é \u202e\udcff") == r"a b\x1b[0m é \u202e\udcff"


def test_a_hub_id_that_cannot_be_had(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "loragraft", "inspect", "no-such-owner/no-such-model"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
    )
    assert (done.returncode, done.stdout) == (3, "")
    (line,) = done.stderr.splitlines()
    assert "no-such-owner/no-such-model: no path here" in line


# Streams


def test_a_reader_that_goes_away_is_no_error(pair: tuple[Path, Path, Path]):
    with subprocess.Popen(
        [sys.executable, "-m", "loragraft", "inspect", pair[0], "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_output_in_an_encoding_that_lacks_the_characters(pair: tuple[Path, Path, Path]):
    done = subprocess.run(
        [sys.executable, "-m", "loragraft", "inspect", pair[0]],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"24 \\xd7 24" in done.stdout


def _draw(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    terminal: bool,
    at_once: bool = True,
    moves: int = 4,
) -> str:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    with progress.progress_bar("Extracting", shown=True, at_once=at_once) as update:
        for move in range(moves):
            update("x", move * 10_000_000, 40_000_000)
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


@pytest.mark.parametrize("at_once", [True, False])
def test_the_bar_is_drawn_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], at_once: bool
):
    text = _draw(monkeypatch, capsys, terminal=True, at_once=at_once)
    assert "Extracting" in text
    assert "30.0/40.0 MB" in text
    assert "B/s" in text


def test_the_bar_can_wait_for_its_first_move(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert "Extracting" in _draw(monkeypatch, capsys, terminal=True, moves=0)
    assert _draw(monkeypatch, capsys, terminal=True, at_once=False, moves=0) == ""


def test_there_is_no_bar_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert _draw(monkeypatch, capsys, terminal=False) == ""


# doctor


def test_doctor(loragraft: CommandLine):
    answer = loragraft("doctor")
    assert (answer.code, answer.err) == (0, "")
    for word in ("Python", "BLAS", "OpenBLAS", "not built", "torch", "lm_eval", "LORAGRAFT_ISA"):
        assert word in answer.out


def test_doctor_as_json_imports_no_optional_package():
    done = python(
        "import sys; from loragraft.cli.application import run; run(['doctor', '--json'])\n"
        "print([m for m in ('torch', 'transformers', 'peft', 'gguf') if m in sys.modules],"
        " file=sys.stderr)"
    )
    assert done.stderr.strip() == "[]"
    data = json.loads(done.stdout)
    assert data["isa"] in data["available_isas"]
    assert data["cuda"] == "not built"
    assert data["threads"] >= 1
    assert data["problem"] is None


def test_doctor_finds_what_is_wrong():
    done = subprocess.run(
        [sys.executable, "-m", "loragraft", "doctor", "--json"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LORAGRAFT_ISA": "sse1"},
    )
    assert done.returncode == 8
    assert "LORAGRAFT_ISA=sse1" in json.loads(done.stdout)["problem"]
    assert "LORAGRAFT_ISA=sse1" in done.stderr

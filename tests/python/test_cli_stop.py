"""Ctrl-C and SIGTERM: exit code 7, one line, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from command_line import CommandLine, loragraft, pair, write_pair
from loragraft.cli import interruption

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["loragraft", "pair"]

#: Two matrices whose factorisation takes many times longer than the test waits.
LARGE = {f"model.layers.{layer}.mlp.up_proj.weight": (2048, 2048) for layer in range(2)}
ENDLESS = ("--rank", "1024", "--power-iterations", "100")
#: Whoever runs the tests in the background has Ctrl-C ignored, which children inherit.
START = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from loragraft.cli import main
main()
"""


@pytest.fixture(autouse=True)
def _survive() -> Iterator[None]:
    """Make a SIGTERM that nobody handles a failed test instead of the end of them all."""

    def fail(_number: int, _frame: object) -> None:
        raise AssertionError("SIGTERM was not handled")

    before = signal.signal(signal.SIGTERM, fail)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_an_extraction(tmp_path: Path, number: signal.Signals):
    base, tuned = write_pair(tmp_path, LARGE)
    out = tmp_path / "made" / "out"
    with subprocess.Popen(
        [sys.executable, "-c", START, "extract", base, tuned, "-o", out, *ENDLESS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + 60
        while not out.exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        assert out.exists(), "it never began"
        time.sleep(0.3)
        sent = time.monotonic()
        process.send_signal(number)
        printed, said = process.communicate(timeout=60)
        waited = time.monotonic() - sent
    assert process.returncode == 7
    assert printed == ""
    assert said == (
        "loragraft: error: stopped before it was done; nothing was written, start again\n"
    )
    assert waited < 3.0, "a second is the promise, on a machine that does nothing else"
    assert not out.parent.exists()


@contextmanager
def _signalling_bar(
    _title: str, *, shown: bool, at_once: bool = True, counts: str = ""
) -> Iterator[Callable[[str, int, int], None]]:
    """A bar at whose first movement somebody presses Ctrl-C."""
    assert shown

    def update(_what: str, _done: int, _total: int) -> None:
        signal.raise_signal(signal.SIGTERM)

    yield update


@pytest.mark.parametrize("command", ["verify", "merge", "extract"])
def test_a_signal_in_the_middle(
    loragraft: CommandLine,
    pair: tuple[Path, Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
):
    base, tuned, adapter = pair
    out = tmp_path / "made" / "out"
    arguments = {
        "verify": (base, tuned, adapter),
        "merge": (base, adapter, "-o", out),
        "extract": (base, tuned, "-o", out),
    }[command]
    monkeypatch.setattr("loragraft.cli.console.progress_bar", _signalling_bar)
    answer = loragraft(command, *arguments, "--json")
    assert answer.code == 7
    assert "stopped" in answer.error
    assert answer.data["error"]["kind"] == "StoppedError"
    left = {path.name for path in out.iterdir()} if out.exists() else set()
    # An extraction can go on where it was.
    assert left == ({".loragraft-journal", ".loragraft-spool"} if command == "extract" else set())


def test_pressing_twice_does_not_disturb_the_cleaning_up():
    with interruption.stoppable():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)


def test_pressing_again_later_counts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(interruption, "_DEAF_SECONDS", 0.0)
    with interruption.stoppable():
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)


def test_handlers_are_put_back_and_ignored_signals_stay_ignored():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with interruption.stoppable():
            os.kill(os.getpid(), signal.SIGTERM)
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
    handler = signal.getsignal(signal.SIGINT)
    with interruption.stoppable():
        pass
    assert signal.getsignal(signal.SIGINT) is handler
    assert signal.getsignal(signal.SIGTERM) is before

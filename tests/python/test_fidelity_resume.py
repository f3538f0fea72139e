"""Fidelity that was stopped or killed goes on to the same figures, with the same inputs only."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch

import asked_models as made
from command_line import CommandLine, loragraft
from loragraft.errors import StoppedError
from loragraft.evaluation import evaluate
from loragraft.evaluation.divergence import Reference, Sums

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["loragraft"]

#: Dies without a chance to tidy up when a model is about to be compared for the 8th time.
KILLED = """
import os, signal, sys
from loragraft.cli import main
from loragraft.evaluation.divergence import Reference

calls, against = [], Reference.against

def dying(self, scorer):
    calls.append(1)
    if len(calls) == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    return against(self, scorer)

Reference.against = dying
main()
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, one to come near to, two adapters, a text of several windows, and questions."""
    place = tmp_path_factory.mktemp("resumed")
    made.save_model(place / "model")
    made.save_model(place / "tuned", seed=3)
    made.save_adapter(place / "mine")
    made.save_adapter(place / "late", seed=5)
    (place / "text.txt").write_text(" ".join(f"word{number % 90}" for number in range(900)))
    made.write_questions(place / "data" / "ARC-Challenge" / "test.jsonl", 4)
    return place


def arguments(place: Path, out: Path, *more: object) -> tuple[object, ...]:
    adapter = f"mine={place / 'mine'}"
    asked = ("--fidelity", place / "tuned", "--text", place / "text.txt")
    once = ("--dtype", "fp32", "--threads", 1, "-o", out)
    return ("evaluate", place / "model", "--adapter", adapter, *asked, *once, *more)


@pytest.fixture(scope="module")
def whole(
    place: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What an undisturbed run finds: the rows of its report and those of its journal."""
    out = tmp_path_factory.mktemp("whole") / "out"
    measured(place, out)
    return fidelity_of(out), results_of(out)


def measured(place: Path, out: Path) -> None:
    """The same from Python."""
    evaluate(
        place / "model",
        out,
        adapters={"mine": place / "mine"},
        fidelity=place / "tuned",
        text=place / "text.txt",
        dtype="fp32",
        threads=1,
    )


def fidelity_of(out: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((out / "report.json").read_text())["fidelity"]
    return found


def results_of(out: Path) -> list[dict[str, Any]]:
    lines = (out / "fidelity.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if "kl" in row]


class Counter:
    """Counts the comparisons of models with the tuned one, and stops at one of them."""

    def __init__(self, patch: pytest.MonkeyPatch, stop_at: int = 0) -> None:
        self.calls, against = 0, Reference.against

        def counted(reference: Reference, scorer: Any) -> Sums:
            self.calls += 1
            if self.calls == stop_at:
                raise KeyboardInterrupt
            return against(reference, scorer)

        patch.setattr(Reference, "against", counted)


def test_a_stopped_text_goes_on_to_the_same_figures(
    loragraft: CommandLine,
    place: Path,
    whole: tuple[list[Any], list[Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    rows, results = whole
    windows = rows[0]["windows"]
    assert windows >= 5
    with monkeypatch.context() as patch:
        Counter(patch, stop_at=6)
        answer = loragraft(*arguments(place, out))
    assert answer.code == 7
    assert f"stopped after 5 of {2 * windows} windows of the text, by all" in answer.error
    assert f"kept in {out}, and --resume continues" in answer.error
    # Three times the tuned model, which is no candidate.
    assert results_of(out) == results[:8]
    assert sorted(path.name for path in out.iterdir()) == ["fidelity.jsonl"]
    refused = loragraft(*arguments(place, out))
    assert refused.code == 2
    assert "--resume continues it" in refused.error
    # A crash may cut a line short.
    with (out / "fidelity.jsonl").open("a") as file:
        file.write('{"window": 3, "cand')
    with monkeypatch.context() as patch:
        counter = Counter(patch)
        answer = loragraft(*arguments(place, out, "--resume"))
    assert answer.code == 0, answer.err
    assert counter.calls == 2 * windows - 5
    assert fidelity_of(out) == rows
    assert results_of(out) == results
    # Another adapter may come in later, and questions; nothing is computed again.
    late = ("--adapter", f"late={place / 'late'}", "--task", "arc_challenge", "--limit", 2)
    with monkeypatch.context() as patch:
        counter = Counter(patch)
        answer = loragraft(*arguments(place, out, "--resume", *late))
    assert answer.code == 0, answer.err
    assert counter.calls == windows
    assert fidelity_of(out)[0] == rows[0]
    assert [row["candidate"] for row in fidelity_of(out)] == ["mine", "late"]


def test_a_killed_text_goes_on_to_the_same_figures(
    loragraft: CommandLine, place: Path, whole: tuple[list[Any], list[Any]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ask = [str(one) for one in arguments(place, out)]
    done = subprocess.run([sys.executable, "-c", KILLED, *ask], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    # Four windows by the tuned model, seven times others.
    assert results_of(out) == whole[1][:11]
    answer = loragraft(*ask, "--resume")
    assert answer.code == 0, answer.err
    assert fidelity_of(out) == whole[0]
    assert results_of(out) == whole[1]


def test_a_run_that_was_killed_while_it_loaded_begins(
    loragraft: CommandLine, place: Path, whole: tuple[list[Any], list[Any]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "items.jsonl").touch()
    (out / "fidelity.jsonl").touch()
    answer = loragraft(*arguments(place, out, "--resume"))
    assert answer.code == 0, answer.err
    assert fidelity_of(out) == whole[0]


def test_stopping_before_anything_is_known_leaves_nothing(
    loragraft: CommandLine, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("loragraft.evaluation.work.open_subject", stop)
    answer = loragraft(*arguments(place, tmp_path / "out"))
    assert answer.code == 7
    assert "stopped before there were any results; start again" in answer.error
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_stopping_among_the_questions_keeps_the_text(
    loragraft: CommandLine,
    place: Path,
    whole: tuple[list[Any], list[Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    task = ("--task", "arc_challenge", "--data", place / "data")

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("loragraft.evaluation.work.run_in_parts", stop)
        answer = loragraft(*arguments(place, out, *task))
    count = 2 * whole[0][0]["windows"]
    assert answer.code == 7
    assert f"stopped after {count} of {count} windows of the text, by all" in answer.error
    counter = Counter(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr("loragraft.evaluation.work.open_subject", stop)
        answer = loragraft(*arguments(place, out, *task, "--resume"))
    assert f"stopped after {count} windows of the text, by all" in answer.error
    answer = loragraft(*arguments(place, out, *task, "--resume"))
    assert answer.code == 0, answer.err
    assert counter.calls == 0
    assert fidelity_of(out) == whole[0]
    # Starting again without a text leaves nothing of it.
    again = list(arguments(place, out, *task, "--force"))
    del again[4:8]
    answer = loragraft(*again)
    assert answer.code == 0, answer.err
    assert not (out / "fidelity.jsonl").exists()


@pytest.fixture(scope="module")
def stopped(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run leaves that was stopped after three comparisons."""
    out = tmp_path_factory.mktemp("stopped") / "out"
    with pytest.MonkeyPatch.context() as patch:
        Counter(patch, stop_at=4)
        with pytest.raises(StoppedError, match="stopped after 3 of"):
            measured(place, out)
    return out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"text.txt": "other.txt"}, "holds results of another text"),
        ({"tuned": "model"}, "another tuned model"),
        ({"mine": "late"}, "another candidate 'mine'"),
        ({"model": "tuned"}, "another candidate 'base'"),
        ({"fp32": "bf16"}, "--dtype float32, not bfloat16"),
        ({"1": "2"}, "--threads 1, not 2"),
    ],
)
def test_results_of_other_inputs_are_not_gone_on_with(
    loragraft: CommandLine,
    place: Path,
    stopped: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, str],
    words: str,
) -> None:
    (place / "other.txt").write_text((place / "text.txt").read_text() + " and more")
    monkeypatch.setattr("loragraft.evaluation.work.open_subject", pytest.fail)
    ask = []
    for one in arguments(place, stopped, "--resume"):
        head, _, last = str(one).rpartition("/")
        own = "" if str(one).endswith(str(stopped)) else change.get(last, "")
        ask.append((f"{head}/{own}" if head else own) if own else str(one))
    answer = loragraft(*ask)
    assert answer.code == 2
    assert words in answer.error
    assert "--force instead of --resume to start again" in answer.error
    assert len(results_of(stopped)) == 5


def test_without_threads_it_goes_on_with_as_many_as_before(
    loragraft: CommandLine,
    place: Path,
    whole: tuple[list[Any], list[Any]],
    stopped: Path,
    tmp_path: Path,
) -> None:
    out = shutil.copytree(stopped, tmp_path / "out")
    before = torch.get_num_threads()
    ask = list(arguments(place, out, "--resume"))
    del ask[ask.index("--threads") : ask.index("--threads") + 2]
    try:
        torch.set_num_threads(3)
        answer = loragraft(*ask)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert answer.code == 0, answer.err
    assert fidelity_of(out) == whole[0]


@pytest.mark.parametrize(
    "content", ["not JSON\n", '{"schema": "loragraft.fidelity/1"}\n', '{"kl": 1.0}\n', "[1]\n{}\n"]
)
def test_files_of_others_are_refused(
    loragraft: CommandLine, place: Path, tmp_path: Path, content: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "fidelity.jsonl").write_text(content)
    answer = loragraft(*arguments(place, out, "--resume"))
    assert answer.code == 2
    assert "fidelity.jsonl: was not written by an evaluation" in answer.error
    assert (out / "fidelity.jsonl").read_text() == content

"""``loragraft evaluate`` as a command: output, exit codes, going on, what is refused."""

from __future__ import annotations

import html
import json
import shutil
from typing import TYPE_CHECKING, Any

import jsonschema
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import asked_models as made
from command_line import CommandLine, loragraft
from loragraft.evaluation.batches import batches, is_out_of_memory, run_in_parts, tokens_at_once
from loragraft.evaluation.questions import read_questions
from loragraft.evaluation.scoring import Scorer
from made_reports import schema

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["loragraft"]

QUESTIONS = 6


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, an adapter with its controls, and questions."""
    place = tmp_path_factory.mktemp("asked")
    made.save_model(place / "model")
    made.save_adapter(place / "mine")
    made.save_adapter(place / "mine-random", seed=5)
    made.write_questions(place / "data" / "ARC-Challenge" / "test.jsonl", QUESTIONS)
    return place


def arguments(place: Path, *more: object) -> tuple[object, ...]:
    adapter = f"mine={place / 'mine'}"
    data = ("--data", place / "data", "--dtype", "fp32")
    return ("evaluate", place / "model", "--adapter", adapter, *data, *more)


def rows_of(out: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (out / "items.jsonl").read_text().splitlines() if line]
    return [row for row in rows if "log_likelihoods" in row]


def numbers_of(out: Path) -> dict[tuple[str, int], list[float]]:
    return {(row["candidate"], row["question"]): row["log_likelihoods"] for row in rows_of(out)}


def test_an_evaluation_tells_what_it_found(
    loragraft: CommandLine, place: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    answer = loragraft(*arguments(place, "--controls", "-o", out))
    assert answer.code == 0, answer.err
    assert answer.err == ""
    for word in ("base", "mine", "mine-random", "acc_norm", "margin", "float32 on cpu"):
        assert word in answer.out
    assert f"Results: {out}" in answer.out
    report = json.loads((out / "report.json").read_text())
    assert [(one["name"], one["kind"]) for one in report["candidates"]] == [
        ("base", "base"),
        ("mine", "adapter"),
        ("mine-random", "control"),
    ]
    (task,) = report["tasks"]
    assert task["questions"] == QUESTIONS
    # With the base, and with the control that it must beat.
    assert [(one["candidate"], one["against"]) for one in report["comparisons"]] == [
        ("mine", "base"),
        ("mine-random", "base"),
        ("mine", "mine-random"),
    ]
    assert report["summary"]["verdict"] in " ".join(answer.out.split())
    assert len(rows_of(out)) == 3 * QUESTIONS
    assert report["summary"]["verdict"] in html.unescape((out / "report.html").read_text())
    jsonschema.Draft202012Validator(schema()).validate(report)
    again = loragraft(*arguments(place, "--controls", "-o", out, "--force", "--json"))
    assert again.data["tasks"] == report["tasks"]
    assert loragraft(*arguments(place, "-o", out)).code == 2


def test_without_data_a_sample_is_asked_and_told(
    loragraft: CommandLine, place: Path, tmp_path: Path
) -> None:
    answer = loragraft(
        "evaluate", place / "model", "-o", tmp_path / "out", "--limit", 2, "--dtype", "fp32"
    )
    assert answer.code == 0
    assert "a sample of 100 of the 1,172 test questions" in answer.out
    assert len(rows_of(tmp_path / "out")) == 2


class _StoppingScorer(Scorer):
    """Presses Ctrl-C in the third batch of the second candidate."""

    calls = 0

    def log_likelihoods(self, lines: Sequence[Any]) -> list[list[float]]:
        type(self).calls += 1
        if type(self).calls == 6:
            raise KeyboardInterrupt
        return super().log_likelihoods(lines)


def test_a_stopped_evaluation_goes_on_where_it_was(
    loragraft: CommandLine, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    small = ("--batch-size", 2)
    assert loragraft(*arguments(place, *small, "-o", whole)).code == 0
    with monkeypatch.context() as patch:
        patch.setattr("loragraft.evaluation.subject.Scorer", _StoppingScorer)
        answer = loragraft(*arguments(place, *small, "-o", out))
    assert answer.code == 7
    assert "stopped after 10 of 12 questions" in answer.error
    assert "--resume continues" in answer.error
    assert not (out / "report.json").exists()
    refused = loragraft(*arguments(place, *small, "-o", out))
    assert refused.code == 2
    assert "--resume continues it" in refused.error
    # A crash may cut a line short.
    with (out / "items.jsonl").open("a") as file:
        file.write('{"task": "arc_chal')
    _StoppingScorer.calls = -1000
    monkeypatch.setattr("loragraft.evaluation.subject.Scorer", _StoppingScorer)
    answer = loragraft(*arguments(place, *small, "-o", out, "--resume"))
    assert answer.code == 0, answer.err
    assert _StoppingScorer.calls == -999, "one batch was missing"
    assert numbers_of(out) == numbers_of(whole)
    # Another candidate may come in later, and nothing else is computed again.
    late = (*small, "-o", out, "--resume", "--adapter", f"late={place / 'mine-random'}")
    assert loragraft(*arguments(place, *late)).code == 0
    assert _StoppingScorer.calls == -996
    assert numbers_of(out).keys() > numbers_of(whole).keys()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("--limit", 3), "another task 'arc_challenge'"),
        (("--dtype", "bf16"), "--dtype float32, not bfloat16"),
        (("--batch-size", 5), "another --batch-size"),
        (("--adapter", "mine=OTHER"), "another candidate 'mine'"),
    ],
)
def test_results_of_other_inputs_are_not_gone_on_with(
    loragraft: CommandLine, place: Path, tmp_path: Path, change: tuple[object, ...], words: str
) -> None:
    out = tmp_path / "out"
    assert loragraft(*arguments(place, "-o", out)).code == 0
    started = list(arguments(place))
    if change[0] == "--adapter":
        other = made.save_adapter(tmp_path / "other", seed=9)
        started[started.index(f"mine={place / 'mine'}")] = f"mine={other}"
        change = ()
    answer = loragraft(*started, *change, "-o", out, "--resume")
    assert answer.code == 2
    assert words in answer.error


def test_a_missing_batch_of_memory_is_cut_in_halves(
    loragraft: CommandLine, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert loragraft(*arguments(place, "-o", tmp_path / "whole")).code == 0
    most = 2

    class Small(Scorer):
        def log_likelihoods(self, lines: Sequence[Any]) -> list[list[float]]:
            if len(lines) > most:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")
            return super().log_likelihoods(lines)

    monkeypatch.setattr("loragraft.evaluation.subject.Scorer", Small)
    assert loragraft(*arguments(place, "-o", tmp_path / "out")).code == 0
    found, wanted = numbers_of(tmp_path / "out"), numbers_of(tmp_path / "whole")
    assert found.keys() == wanted.keys()
    for key, values in wanted.items():
        np.testing.assert_allclose(found[key], values, rtol=1e-4)
    most = 0
    answer = loragraft(*arguments(place, "-o", tmp_path / "none"))
    assert answer.code == 3
    assert "out of memory with 1 question at a time" in answer.error
    assert "--dtype bf16" in answer.error


def test_adapters_that_do_not_fit(loragraft: CommandLine, place: Path, tmp_path: Path) -> None:
    def refused(adapter: Path) -> str:
        answer = loragraft(
            "evaluate", place / "model", "--adapter", f"x={adapter}", "-o", tmp_path / "out"
        )
        assert answer.code == 4, answer.err
        assert not (tmp_path / "out").exists()
        return answer.error

    wide = made.save_adapter(tmp_path / "wide", rows=24)
    assert "does not fit" in refused(wide)
    assert "size mismatch" in refused(wide)
    strange = made.save_adapter(tmp_path / "strange")
    file = strange / "adapter_model.safetensors"
    tensors = load_file(file)
    extra = {name.replace("layers.0", "layers.7"): array for name, array in tensors.items()}
    save_file({**tensors, **extra}, file)
    assert "has 2 tensors that the model has no place for" in refused(strange)
    save_file({name: array for name, array in tensors.items() if "lora_A" in name}, file)
    assert "lacks 1 tensor that its adapter_config.json asks for" in refused(strange)
    foreign = made.save_adapter(tmp_path / "foreign")
    config = json.loads((foreign / "adapter_config.json").read_text())
    config["target_modules"] = ["c_attn"]
    (foreign / "adapter_config.json").write_text(json.dumps(config))
    assert "give the model it was made for" in refused(foreign)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--adapter", "nothing"), 2, "expected NAME=PATH"),
        (("--adapter", "base=mine"), 2, "the model alone is called so"),
        (("--oracle", "who"), 2, "--oracle 'who': is none of"),
        (("--limit", "0"), 2, "--limit 0: expected 1 or more"),
        (("--batch-size", "many"), 2, "expected auto or a number of questions"),
        (("--dtype", "int4"), 2, "expected auto, fp32 or bf16"),
        (("--control", "x=nowhere"), 3, "no Hub id either: expected the directory of a PEFT"),
        (("--control", "x=data"), 3, "holds no adapter"),
        (("--model", "x=./nowhere"), 3, "no such file or directory"),
        (("--task", "arc_easy"), 3, "ARC-Easy/test.jsonl"),
        (("--task", "x=none.jsonl"), 3, "none.jsonl"),
        (("--task", "=none.jsonl"), 2, "expected a name, or NAME=FILE.jsonl"),
        (("--task", "arc_challenge", "--task", "arc_challenge"), 2, "is named twice"),
    ],
)
def test_what_is_refused(
    loragraft: CommandLine,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(place)
    answer = loragraft(*arguments(place, "-o", tmp_path / "out", *options))
    assert answer.code == code, answer.err
    assert words in answer.error
    assert not (tmp_path / "out").exists()


def test_controls_must_be_there(loragraft: CommandLine, place: Path, tmp_path: Path) -> None:
    alone = shutil.copytree(place / "mine", tmp_path / "alone")
    answer = loragraft(
        "evaluate", place / "model", "--adapter", f"x={alone}", "--controls", "-o", tmp_path / "out"
    )
    assert answer.code == 2
    assert "padded-copy, random and shuffled" in answer.error


@pytest.mark.parametrize("missing", ["lm_eval", "torch"])
def test_the_extra_is_named_where_it_is_missing(
    loragraft: CommandLine,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    missing: str,
) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, *more: None if name == missing else find(name, *more),
    )
    answer = loragraft(*arguments(place, "-o", tmp_path / "out"))
    assert answer.code == 8
    assert f"needs {missing}: pip install 'loragraft[eval]'" in answer.error


def test_weights_that_overflow_are_told(
    loragraft: CommandLine, place: Path, tmp_path: Path
) -> None:
    broken = made.save_adapter(tmp_path / "broken", scale=np.nan)
    out = ("-o", tmp_path / "out")
    answer = loragraft(*arguments(place, "--adapter", f"broken={broken}", *out))
    assert answer.code == 6
    assert "broken: computes NaN or Inf on arc_challenge" in answer.error


GOOD: dict[str, Any] = {
    "id": "q1",
    "question": "Which?",
    "choices": {"text": ["a", "b", "c"], "label": ["1", "2", "3"]},
    "answerKey": "3",
}


def changed(**change: Any) -> str:
    return json.dumps({**GOOD, **change})


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "not valid JSON"),
        ("[1]", "expected a JSON object, got list"),
        (changed(id=None), "got nothing for id"),
        (changed(question=" "), "got ' ' for question"),
        (changed(question="\ud800"), "for question"),
        (changed(choices=["a", "b", "c"]), "for choices"),
        (changed(choices={"text": "abc", "label": list("ABC")}), "got 'abc' for choices.text"),
        (changed(choices={"text": list("ab"), "label": list("ABC")}), "got 2 texts and 3 labels"),
        (
            changed(choices={"text": list("ab"), "label": list("AB")}),
            "got 2 answers, expected 3 to",
        ),
        (changed(choices={"text": list("abcdef"), "label": list("ABCDEF")}), "got 6 answers"),
        (changed(choices={"text": list("abc"), "label": list("AAB")}), "not all different"),
        (
            changed(choices={"text": ["a", "", "c"], "label": list("ABC")}),
            "got '' for choices.text",
        ),
        (changed(answerKey="D"), "the answerKey 'D' is none of the labels"),
        (changed(answerKey=True), "got True for answerKey"),
        (changed(), "the id 'q1' is also on line 1"),
    ],
)
def test_a_line_of_another_shape_is_told_with_its_number(
    loragraft: CommandLine, place: Path, tmp_path: Path, line: str, words: str
) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(f"{json.dumps(GOOD)}\n\n{line}\n")
    answer = loragraft(
        "evaluate", place / "model", "--task", f"mine={file}", "-o", tmp_path / "out"
    )
    assert answer.code == 3
    assert f"{file}, line 3: " in answer.error
    assert words in answer.error


def test_questions_keep_what_they_say(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    numbers = changed(
        id=7, choices={"text": ["a", "b\u2028", "c"], "label": [1, 2, 3]}, answerKey=2
    )
    file.write_bytes(b"\xef\xbb\xbf" + f"{json.dumps(GOOD)}\r\n{numbers}".encode())
    first, second = read_questions(file)
    assert first.row() == GOOD
    assert second.row() == {
        **GOOD,
        "id": "7",
        "choices": {"text": ["a", "b\u2028", "c"], "label": ["1", "2", "3"]},
        "answerKey": "2",
    }
    file.write_text("\n")
    with pytest.raises(Exception, match="has no question"):
        read_questions(file)


def test_batches_hold_every_question_once_and_the_longest_first() -> None:
    sizes = [3, 50, 8, 20, 8, 1]
    assert batches(sizes, 40) == [[1], [3, 2], [4, 0, 5]]
    assert batches(sizes, 40, 4) == [[1, 3, 2, 4], [0, 5]]
    assert tokens_at_once(None, 300, 16, 4096) == 4096
    assert tokens_at_once(10**12, 300, 16, 4096) == 4096
    assert tokens_at_once(1000, 300, 16, 4096) == 64
    # A quarter of the memory, 4 bytes for two logits of every token of the vocabulary and 32 rows.
    assert tokens_at_once(16 * (2 * 250_000 + 32 * 1000) * 100, 250_000, 1000, 4096) == 100


def test_only_a_lack_of_memory_is_answered_with_smaller_batches() -> None:
    def run(part: Sequence[int]) -> list[int]:
        if len(part) > 2:
            raise MemoryError
        return [10 * number for number in part]

    found = list(run_in_parts([4, 1, 3, 2, 9], run))
    assert [(list(part), result) for part, result in found] == [
        ([4, 1], [40, 10]),
        ([3], [30]),
        ([2, 9], [20, 90]),
    ]

    def broken(_part: Sequence[int]) -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        list(run_in_parts([1, 2], broken))
    assert is_out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_fidelity_needs_no_questions(loragraft: CommandLine, place: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(" ".join(f"word{number % 90}" for number in range(900)))
    tuned = made.save_model(tmp_path / "tuned", seed=3)
    ask = ("evaluate", place / "model", "--adapter", f"mine={place / 'mine'}", "--dtype", "fp32")
    out = tmp_path / "out"
    answer = loragraft(*ask, "--fidelity", tuned, "--text", text, "-o", out)
    assert answer.code == 0, answer.err
    assert "nats a token" in " ".join(answer.out.split())
    report = json.loads((out / "report.json").read_text())
    jsonschema.Draft202012Validator(schema()).validate(report)
    assert report["tasks"] == report["comparisons"] == []
    (row,) = report["fidelity"]
    assert (row["candidate"], row["same"]) == ("mine", False)
    assert row["kl"] > 0.0
    assert any("text.txt" in one for one in report["summary"]["warnings"])
    assert "Fidelity to the tuned model" in (out / "report.html").read_text()
    # With a task both are told.
    data = ("--task", "arc_challenge", "--data", place / "data", "--limit", 2)
    both = loragraft(
        *ask, *data, "--fidelity", tuned, "--text", text, "-o", tmp_path / "2", "--json"
    )
    assert [one["questions"] for one in both.data["tasks"]] == [2]
    assert both.data["fidelity"] == report["fidelity"]


def test_fidelity_that_cannot_be_measured_is_refused(
    loragraft: CommandLine, place: Path, tmp_path: Path
) -> None:
    ask = ("evaluate", place / "model", "-o", tmp_path / "out")
    mine = ("--adapter", f"mine={place / 'mine'}")
    empty = tmp_path / "empty.txt"
    empty.write_text(" \n")
    for more, code, words in (
        ((*mine, "--text", empty), 2, "--fidelity TUNED alone"),
        (("--fidelity", place / "model"), 2, "give an --adapter"),
        ((*mine, "--fidelity", tmp_path / "none"), 3, "none"),
        ((*mine, "--fidelity", place / "model", "--text", empty), 3, "has no text in it"),
    ):
        answer = loragraft(*ask, *more)
        assert answer.code == code, answer.err
        assert words in answer.err
        assert not (tmp_path / "out").exists()

"""Log-likelihoods, acc and acc_norm are those of lm-evaluation-harness, item by item."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import asked_models as made
from loragraft.errors import UsageError
from loragraft.evaluation import evaluate
from loragraft.evaluation.harness import prepare
from loragraft.evaluation.lines import Line, lines_of
from loragraft.evaluation.machine import Numbers, choose_numbers, choose_threads
from loragraft.evaluation.subject import open_subject
from loragraft.evaluation.tasks import find_tasks

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FLOAT32 = Numbers("float32", "cpu", "")
#: An answer has up to a few dozen tokens, whose log-probabilities of a few nats each come out of
#: sums over 16 to 300 terms: float32 rounding of these, with room for other orders of summing.
ROUNDING = 512 * float(np.finfo(np.float32).eps)


def own_harness(
    directory: Path, questions: Path, like: str, limit: int | None = None
) -> Mapping[str, Any]:
    """What the harness makes of the questions by itself, with its own model and its own loop."""
    import datasets
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    rows = datasets.Dataset.from_list([json.loads(line) for line in questions.open()])
    changes = {
        "task": like,
        "custom_dataset": lambda **_: {"test": rows},
        "training_split": None,
        "validation_split": None,
    }
    manager = TaskManager(include_path=f"{lm_eval.__path__[0]}/tasks/arc", include_defaults=False)
    task = manager.load({"group": "own", "task": [changes]})["tasks"][like]
    result = lm_eval.simple_evaluate(
        model=HFLM(pretrained=str(directory), device="cpu", dtype="float32", batch_size=3),
        tasks=[task],
        task_manager=manager,
        log_samples=True,
        bootstrap_iters=0,
        limit=limit,
    )
    assert result is not None
    return {"samples": result["samples"][like], "figures": result["results"][like]}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "bos", "like"),
    [
        ("llama", True, "arc_challenge"),
        ("llama", False, "arc_easy"),
        ("gemma3_text", True, "arc_challenge"),
        ("gemma2", True, "arc_challenge"),
        ("gpt2", False, "arc_challenge"),
        ("mamba", False, "arc_challenge"),
    ],
)
def test_every_item_is_scored_as_the_harness_scores_it(
    tmp_path: Path, kind: str, bos: bool, like: str
) -> None:
    model = made.save_model(tmp_path / "model", kind, bos=bos)
    place = {"arc_challenge": "ARC-Challenge", "arc_easy": "ARC-Easy"}[like]
    questions = made.write_questions(tmp_path / "data" / place / "test.jsonl")
    run = evaluate(model, tasks=[like], data=tmp_path / "data", dtype="fp32")
    items = run.items[like]["base"]
    theirs = own_harness(model, questions, like)
    samples = sorted(theirs["samples"], key=lambda sample: sample["doc_id"])
    assert items.ids == tuple(sample["doc"]["id"] for sample in samples)
    for row, sample in enumerate(samples):
        wanted = np.array([found[0] for found in sample["filtered_resps"]])
        ours = items.log_likelihoods[row][: len(wanted)]
        np.testing.assert_allclose(ours, wanted, rtol=ROUNDING)
        assert np.isnan(items.log_likelihoods[row][len(wanted) :]).all()
        assert items.acc[row] == sample["acc"]
        assert items.acc_norm[row] == sample["acc_norm"]
        assert items.gold[row] == sample["target"]
    assert items.acc.mean() == theirs["figures"]["acc,none"]
    assert items.acc_norm.mean() == theirs["figures"]["acc_norm,none"]
    # Or nothing was proven of the answers that share a prompt.
    warnings = run.report.summary.warnings
    alone = any("each answer was run with its prompt" in warning for warning in warnings)
    assert alone == (kind == "mamba")


@pytest.mark.filterwarnings("ignore")
def test_long_prompts_are_cut_as_the_harness_cuts_them(tmp_path: Path) -> None:
    model = made.save_model(tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 40}))
    questions = made.write_questions(tmp_path / "data" / "ARC-Easy" / "test.jsonl", 4)
    run = evaluate(model, tasks=["arc_easy"], data=tmp_path / "data", dtype="fp32")
    samples = own_harness(model, questions, "arc_easy")["samples"]
    for sample in samples:
        wanted = [found[0] for found in sample["filtered_resps"]]
        row = run.items["arc_easy"]["base"].log_likelihoods[sample["doc_id"]]
        np.testing.assert_allclose(row[: len(wanted)], wanted, rtol=ROUNDING)


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gemma2", "gpt2"])
def test_answers_that_share_a_prompt_get_the_same_numbers(tmp_path: Path, kind: str) -> None:
    model = made.save_model(tmp_path / "model", kind)
    scorer = open_subject(model, [], FLOAT32, None).scorer
    rng = np.random.default_rng(5)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(map(int, rng.integers(2, 300, count)))

    lines = [
        Line(tokens(30), (tokens(1), tokens(7), tokens(3)), (0, 1, 2)),
        Line(tokens(1), (tokens(2),), (0,)),
        Line(tokens(11), (tokens(1), tokens(12)), (0, 1)),
    ]
    with torch.no_grad():
        together = scorer._shared(lines)
        for line, found in zip(lines, together, strict=True):
            np.testing.assert_allclose(found, scorer._plain([line])[0], rtol=ROUNDING)
        assert scorer.shares
        scorer.settle(lines[0])
        assert scorer.shares


def test_a_model_that_cannot_share_is_noticed(tmp_path: Path) -> None:
    scorer = open_subject(made.save_model(tmp_path / "model"), [], FLOAT32, None).scorer
    line = Line((5, 6, 7, 8), ((9, 10), (11, 12)), (0, 1))
    kept = scorer._shared
    with torch.no_grad():
        scorer._shared = lambda lines: [[x + 0.1 for x in row] for row in kept(lines)]  # type: ignore[method-assign]
        scorer.settle(line)
        assert not scorer.shares
        scorer._shared = kept  # type: ignore[method-assign]
        scorer.settle(line)
        assert scorer.shares


def test_adapters_are_switched_and_give_what_they_give_alone(tmp_path: Path) -> None:
    model = made.save_model(tmp_path / "model")
    one = made.save_adapter(tmp_path / "one")
    other = made.save_adapter(tmp_path / "other", seed=2)
    questions = made.write_questions(tmp_path / "q.jsonl", 3)
    tasks = [f"mine={questions}"]

    def asked(**adapters: Path) -> dict[str, Any]:
        found = evaluate(model, tasks=tasks, adapters=adapters, dtype="fp32").items["mine"]
        return {name: items.log_likelihoods for name, items in found.items()}

    both, alone = asked(a=one, b=other), asked(b=other)
    np.testing.assert_array_equal(both["b"], alone["b"])
    np.testing.assert_array_equal(both["base"], alone["base"])
    assert np.nanmin(np.abs(both["a"] - both["b"])) > 0.0
    assert np.nanmin(np.abs(both["a"] - both["base"])) > 0.0


def test_an_adapter_that_changes_nothing_gives_the_same_bits_and_is_told(tmp_path: Path) -> None:
    model = made.save_model(tmp_path / "model")
    idle = made.save_adapter(tmp_path / "idle", scale=0.0)
    real = made.save_adapter(tmp_path / "real")
    questions = made.write_questions(tmp_path / "q.jsonl", 4)
    run = evaluate(model, tasks=[f"mine={questions}"], adapters={"idle": idle, "real": real})
    found = run.items["mine"]
    assert found["idle"].log_likelihoods.tobytes() == found["base"].log_likelihoods.tobytes()
    told = [note for note in run.report.summary.warnings if "changes nothing" in note]
    assert [note.split()[0] for note in told] == ["idle"]


def test_a_whole_model_is_one_of_the_candidates(tmp_path: Path) -> None:
    model = made.save_model(tmp_path / "model")
    tuned = made.save_model(tmp_path / "tuned", seed=3)
    questions = made.write_questions(tmp_path / "q.jsonl", 4)
    tasks = [f"mine={questions}"]
    run = evaluate(model, tasks=tasks, models={"tuned": tuned}, oracle="tuned", dtype="fp32")
    alone = evaluate(tuned, tasks=tasks, dtype="fp32")
    np.testing.assert_array_equal(
        run.items["mine"]["tuned"].log_likelihoods, alone.items["mine"]["base"].log_likelihoods
    )
    assert run.report.inputs["oracle"] == "tuned"


def test_lines_gather_answers_and_keep_the_end_of_long_prompts() -> None:
    prompt = tuple(range(10))
    gathered = lines_of([(prompt, [20, 21]), (prompt, [30]), ([7], [40])], 100)
    assert gathered == (
        Line(prompt, ((20, 21), (30,)), (0, 1)),
        Line((7,), ((40,),), (2,)),
    )
    # Of prompt and answer less its last token, which is not read, as many as the model reads.
    cut = lines_of([(prompt, [20, 21]), (prompt, [30])], 5)
    assert cut == (
        Line((6, 7, 8, 9), ((20, 21),), (0,)),
        Line((5, 6, 7, 8, 9), ((30,),), (1,)),
    )


def test_what_to_compute_in_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_numbers("bfloat16", "F32")[:2] == ("bfloat16", "cpu")
    assert choose_numbers(None, "F32").dtype == "float32"
    seconds = {"float32": 3.0, "bfloat16": 1.0}
    monkeypatch.setattr("loragraft.evaluation.machine._seconds", seconds.__getitem__)
    assert choose_numbers(None, "BF16") == ("bfloat16", "cpu", "3.0 times as fast here as float32")
    seconds["bfloat16"] = 2.9
    assert choose_numbers(None, "BF16").dtype == "float32"


def test_one_thread_is_taken_where_it_is_faster_than_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    seconds = {None: 2.0, 1: 1.0}
    monkeypatch.setattr(
        "loragraft.evaluation.machine._seconds", lambda _, threads=None: seconds[threads]
    )
    assert choose_threads(None, "cpu") == (1, "one thread: 2.0 times as fast here now as 8")
    assert choose_threads(4, "cpu") == (4, "")
    assert choose_threads(None, "cuda") == (None, "")
    seconds[1] = 1.9
    assert choose_threads(None, "cpu") == (None, "")


def test_the_timing_leaves_the_number_of_threads_as_it_was() -> None:
    before = torch.get_num_threads()
    numbers, _ = choose_threads(None, "cpu")
    assert numbers in {None, 1}
    assert torch.get_num_threads() == before


def test_unknown_tasks_are_answered_with_those_of_like_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Manager:
        all_tasks = ("hellaswag", "arc_easy", "winogrande")

        def load(self, name: str) -> None:
            raise ConnectionError(f"no way to {name}")

    monkeypatch.setattr("lm_eval.tasks.TaskManager", Manager)
    with pytest.raises(UsageError, match="no such task, but hellaswag; known without a network"):
        prepare(find_tasks(["helaswag"], None, None))
    with pytest.raises(Exception, match=r"data cannot be had \(ConnectionError: no way to wino"):
        prepare(find_tasks(["winogrande"], None, None))

"""Tasks that lm-evaluation-harness knows by name, with data of its own, give what it gives."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest

import asked_models as made
import harness_data as data
from command_line import CommandLine, loragraft
from loragraft.evaluation import evaluate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from loragraft.evaluation.items import Items

__all__ = ["loragraft"]

#: As in `test_evaluation_scores`: sums over 16 to 300 terms, in another order.
ROUNDING = 512 * float(np.finfo(np.float32).eps)
TASKS = {
    "arc_easy": "a configuration of a data set, and a field id",
    "piqa": "two answers",
    "hellaswag": "documents that code of the task changes; the number of the answer as a text",
    "winogrande": "answers that differ in the prompt",
    "boolq": "fixed answers, and a field id that is not unique",
    "copa": "prompts and answers that code makes",
    "commonsense_qa": "the letter of the answer",
    "mmlu_anatomy": "a description before the question",
    "leaderboard_mmlu_pro": "the first five of another split as examples",
    "ja_leaderboard_jcommonsenseqa": "three examples that are drawn, and no space before answers",
    "blimp_adjunct_island": "nothing before the answers",
    "truthfulqa_mc1": "the first answer is right",
}


class Runs(NamedTuple):
    ours: Mapping[str, Mapping[str, Items]]
    theirs: Mapping[str, Any]
    manager: Any


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with the data, which becomes the current one; there is no network."""
    import datasets
    import huggingface_hub

    def fail(*_: Any) -> None:
        raise AssertionError("it went for the network")

    place = tmp_path_factory.mktemp("tasks")
    data.write_all(place)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(place / "cache"))
        # Or it tries for half a minute.
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        patch.setattr(socket.socket, "connect", fail)
        yield place


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def runs(place: Path, model: Path) -> Runs:
    """Both of all tasks: ours, and the harness's own with its own model and its own loop."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    kept: list[Any] = []

    def keep(*given: Any, **named: Any) -> Any:
        kept.append(TaskManager(*given, **named))
        return kept[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lm_eval.tasks.TaskManager", keep)
        own = evaluate(model, tasks=list(TASKS), dtype="fp32")
    # It takes many seconds to make.
    assert len(kept) == 1
    result = lm_eval.simple_evaluate(
        model=HFLM(pretrained=str(model), device="cpu", dtype="float32", batch_size=3),
        tasks=list(TASKS),
        task_manager=kept[0],
        log_samples=True,
        bootstrap_iters=0,
    )
    assert result is not None
    return Runs(own.items, result, kept[0])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("task", TASKS)
def test_every_item_is_scored_as_the_harness_scores_it(runs: Runs, task: str) -> None:
    items = runs.ours[task]["base"]
    samples = sorted(runs.theirs["samples"][task], key=lambda sample: sample["doc_id"])
    assert len(items.ids) == len(samples) == data.COUNT
    assert len(set(items.ids)) == data.COUNT
    for row, sample in enumerate(samples):
        wanted = np.array([found[0] for found in sample["filtered_resps"]])
        ours = items.log_likelihoods[row]
        np.testing.assert_allclose(ours[~np.isnan(ours)], wanted, rtol=ROUNDING)
        for name in ("acc", "acc_norm"):
            if name in sample:
                assert getattr(items, name)[row] == sample[name], (row, name)
    figures = runs.theirs["results"][task]
    assert items.acc.mean() == figures["acc,none"]
    assert items.acc_norm.mean() == figures.get("acc_norm,none", items.acc_norm.mean())


@pytest.fixture
def indexed(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness's tasks need not be looked for again."""
    import lm_eval.tasks

    class Indexed(lm_eval.tasks.TaskManager):  # type: ignore[misc]  # untyped
        def __new__(cls, *given: Any, **named: Any) -> Any:
            return object.__new__(cls) if given or named else runs.manager

    monkeypatch.setattr("lm_eval.tasks.TaskManager", Indexed)


@pytest.mark.usefixtures("indexed")
def test_a_group_is_asked_in_silence(loragraft: CommandLine, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ask = ("evaluate", model, "--dtype", "fp32", "--limit", 3, "-o", out)
    answer = loragraft(*ask, "--task", "ai2_arc", "--json")
    assert answer.code == 0, answer.err
    assert answer.err == ""
    tasks = {task["name"]: task["questions"] for task in answer.data["tasks"]}
    assert tasks == {"arc_easy": 3, "arc_challenge": 3}
    # All questions of the group's, none of the sample that stands for it alone.
    assert not any("sample" in note for note in answer.data["summary"]["warnings"])
    again = loragraft(*ask, "--force", "--task", "arc_challenge", "--task", "ai2_arc")
    assert again.code == 2
    assert "--task 'ai2_arc': 'arc_challenge' is among its tasks" in again.error


@pytest.mark.parametrize(
    ("task", "code", "words"),
    [
        ("truthfulqa_mc2", 2, "is scored by code of its own in lm-evaluation-harness"),
        ("arc_challenge_chat", 2, "is 'generate_until' in lm-evaluation-harness"),
        ("sciq", 3, "its data cannot be had"),
        ("social_iqa", 3, "question 1: the right answer 8 is none of 3 choices"),
        ("openbookqa", 3, "cannot ask its questions"),
    ],
)
@pytest.mark.usefixtures("indexed")
def test_what_cannot_be_asked_is_told(
    loragraft: CommandLine, model: Path, tmp_path: Path, task: str, code: int, words: str
) -> None:
    answer = loragraft("evaluate", model, "--task", task, "-o", tmp_path / "out")
    assert answer.code == code, answer.err
    assert words in answer.error
    assert not (tmp_path / "out").exists()

"""lm-evaluation-harness: the prompts of its tasks, and how it cuts them into tokens.

The only file that imports lm_eval, which comes with the extra ``eval``. What a question looks like,
where its answers begin, and what acc_norm divides by is all the harness's own; local files only
take the place of the data set that it would fetch.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib.util
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, cast

from loragraft.errors import FormatError, MissingDependencyError, UsageError
from loragraft.evaluation.tasks import known_tasks
from loragraft.wording import listed, quoted, reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from loragraft.evaluation.lines import Pair
    from loragraft.evaluation.tasks import Task

_NEEDED: Final = ("lm_eval", "accelerate")
#: Those that talk while tasks are loaded.
_TALKERS: Final = ("lm_eval", "datasets", "huggingface_hub")
_KIND: Final = "multiple_choice"
#: What the harness seeds its choice of examples with by default.
_EXAMPLES_SEED: Final = 1234
_MOST_MATCHES: Final = 5


@dataclass(frozen=True, slots=True)
class Prompts:
    """A task as the model sees it.

    Attributes:
        task: Its name.
        ids: Of the questions, in their order.
        gold: Number of the right answer to each.
        requests: For every answer to each question the prompt and what follows it.
        lengths: Characters of each answer, by which acc_norm divides.
    """

    task: str
    ids: tuple[str, ...]
    gold: tuple[int, ...]
    requests: tuple[tuple[tuple[str, str], ...], ...]
    lengths: tuple[tuple[float, ...], ...]

    def digest(self) -> str:
        """Return a hash of all that is asked."""
        content = json.dumps([self.ids, self.gold, self.requests, self.lengths])
        return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


def require_harness() -> None:
    """Refuse to go on without lm-evaluation-harness.

    Raises:
        MissingDependencyError: It, or what it needs, is not installed.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"evaluation needs {listed(missing)}: pip install 'loragraft[eval]'"
        )


def prepare(tasks: Sequence[Task], limit: int | None = None) -> tuple[Prompts, ...]:
    """Return the prompts of tasks, of several for one where the harness knows a group by its name.

    Args:
        tasks: The tasks.
        limit: Questions at most; None for all.

    Raises:
        MissingDependencyError: lm-evaluation-harness is not installed.
        UsageError: It knows no such task, or one that is not multiple choice, or two of them have
            a task in common.
        FormatError: The data of a task cannot be had.
    """
    require_harness()
    prompts: dict[str, Prompts] = {}
    with _silence(), _without_bars():
        # Made once: it reads thousands of files.
        manager = None if all(task.questions for task in tasks) else _manager()
        for task in tasks:
            found = _local(task) if task.questions else _registered(manager, task)
            for name, one in found.items():
                if name in prompts:
                    raise UsageError(
                        f"--task {quoted(task.name)}: {quoted(name)} is among its tasks, and is"
                        " asked already; keep one of them"
                    )
                prompts[name] = _prompts(name, one, limit)
    return tuple(prompts.values())


def _manager() -> Any:
    import lm_eval.tasks

    return lm_eval.tasks.TaskManager()


def _local(task: Task) -> dict[str, Any]:
    """Return the harness's task with the local questions in place of its data set."""
    import datasets
    import lm_eval.tasks

    rows = datasets.Dataset.from_list([one.row() for one in task.questions or ()])
    known = Path(lm_eval.tasks.__file__).parent / "arc"
    manager = lm_eval.tasks.TaskManager(include_path=str(known), include_defaults=False)
    changes = {
        "task": task.like,
        "custom_dataset": lambda **_: {"test": rows},
        "training_split": None,
        "validation_split": None,
    }
    # Through a group, which is how the harness takes changes to a task that it knows.
    found = manager.load({"group": "local", "task": [changes]})["tasks"]
    return {task.name: found[task.like]}


def _registered(manager: Any, task: Task) -> dict[str, Any]:
    """Return the harness's task, or those of its group."""
    if task.name not in manager.all_tasks:
        near = difflib.get_close_matches(task.name, manager.all_tasks, _MOST_MATCHES)
        raise UsageError(
            f"--task {quoted(task.name)}: lm-evaluation-harness knows no such task"
            f"{f', but {listed(near)}' if near else ''}; known without a network are"
            f" {known_tasks()}"
        )
    try:
        return dict(manager.load(task.name)["tasks"])
    except Exception as error:
        # Whatever the library of data sets raises, which has no common base.
        raise FormatError(
            f"--task {task.name}: its data cannot be had ({reason(error)}); known without a network"
            f" are {known_tasks()}"
        ) from error


def _prompts(name: str, task: Any, limit: int | None) -> Prompts:
    what = _unlike(task)
    if what:
        raise UsageError(
            f"--task {name}: {what} in lm-evaluation-harness; only multiple choice with one right"
            " answer is evaluated here"
        )
    try:
        return _read(name, task, limit)
    except FormatError:
        raise
    except Exception as error:
        # Templates and code of the task's own, on data that may be anybody's.
        raise FormatError(
            f"--task {name}: lm-evaluation-harness cannot ask its questions ({reason(error)})"
        ) from error


def _unlike(task: Any) -> str:
    """Return in words what a task is other than multiple choice with one right answer."""
    if task.OUTPUT_TYPE != _KIND:
        return f"is {quoted(task.OUTPUT_TYPE)}"
    if getattr(task, "multiple_target", 0):
        return "may have several right answers"
    if callable(task.get_config("process_results")):
        return "is scored by code of its own"
    if task.get_config("doc_to_image") or task.get_config("doc_to_audio"):
        return "has images or sounds"
    return ""


def _read(name: str, task: Any, limit: int | None) -> Prompts:
    task.set_fewshot_seed(seed=_EXAMPLES_SEED)
    shots = task.get_config("num_fewshot") or 0
    ids, gold, requests, lengths = [], [], [], []
    for number, document in task.doc_iterator(limit=limit):
        context = task.fewshot_context(
            document, num_fewshot=shots, gen_prefix=task.doc_to_prefix(document)
        )
        asked = task.construct_requests(
            doc=document, ctx=context, metadata=(name, number, 1), apply_chat_template=False
        )
        choices = task.doc_to_choice(document)
        ids.append(str(document.get("id", number)))
        right = task.doc_to_text if task.multiple_input else task.doc_to_target
        gold.append(_number(right(document), choices, f"task {name}, question {number}"))
        requests.append(tuple(tuple(one.args) for one in asked[: len(choices)]))
        lengths.append(tuple(float(len(choice)) for choice in choices))
    if len(set(ids)) < len(ids):
        # Names of passages, say, to which there are several questions.
        ids = list(map(str, range(len(ids))))
    return Prompts(name, tuple(ids), tuple(gold), tuple(requests), tuple(lengths))


def _number(gold: object, choices: Sequence[str], where: str) -> int:
    if isinstance(gold, str) and gold in choices:
        return choices.index(gold)
    if isinstance(gold, int) and 0 <= gold < len(choices):
        return gold
    raise FormatError(f"{where}: the right answer {quoted(gold)} is none of {len(choices)} choices")


class Cutter:
    """Cuts prompts and answers into tokens as the harness does for a model of transformers.

    Attributes:
        longest: Tokens that the model reads at most.
    """

    def __init__(self, tokenizer: Any, config: Any) -> None:
        """Prepare.

        Args:
            tokenizer: Of transformers.
            config: The model's.
        """
        with _silence():
            self._model = _cutting()(
                # All that is looked at of a model to cut a text.
                pretrained=SimpleNamespace(config=config, device="cpu", name_or_path=""),
                backend="causal",
                tokenizer=tokenizer,
            )
        self.longest = int(self._model.max_length)

    def pairs(self, requests: Sequence[tuple[str, str]]) -> list[Pair]:
        """Return the tokens of prompts and answers."""
        asked = [SimpleNamespace(args=request, task_name=None) for request in requests]
        with _silence():
            return cast("list[Pair]", self._model.loglikelihood(asked, disable_tqdm=True))


def _cutting() -> Callable[..., Any]:
    """Return the harness's model, which here gives back the tokens that it would run."""
    from lm_eval.models.huggingface import HFLM

    class Cutting(HFLM):  # type: ignore[misc]  # untyped where it is not installed
        def _loglikelihood_tokens(self, requests: Any, **_: Any) -> Any:
            return [(context, answer) for _text, context, answer in requests]

    return Cutting


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the harness from writing to the terminal, and leave its loggers as they were."""
    before = {name: logging.getLogger(name).level for name in _TALKERS}
    for name in _TALKERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """Keep the library of data sets from drawing bars, which it does without a terminal, too."""
    import datasets

    shown = datasets.utils.are_progress_bars_disabled() is False
    datasets.utils.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.utils.enable_progress_bars()

"""A model and its adapters in, what each makes of every question out."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from loragraft.atomic_file import write_text_atomic
from loragraft.destination import Destination, check_destination
from loragraft.errors import NonFiniteError, StoppedError, UsageError
from loragraft.evaluation.batches import batches, run_in_parts
from loragraft.evaluation.candidate import BASE, Kind
from loragraft.evaluation.journal import ITEMS_FILE, Journal, Setting
from loragraft.evaluation.lines import lines_of
from loragraft.evaluation.options import EvaluateOptions
from loragraft.evaluation.plan import plan_evaluation
from loragraft.evaluation.run import EvaluationRun, make_items
from loragraft.evaluation.subject import choose_numbers, open_subject
from loragraft.wording import shown

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from loragraft.evaluation.candidate import Candidate
    from loragraft.evaluation.harness import Prompts
    from loragraft.evaluation.lines import Line
    from loragraft.evaluation.plan import EvaluationPlan
    from loragraft.evaluation.scoring import Scorer
    from loragraft.evaluation.subject import Subject

    #: Told what was done last, questions done and questions in all.
    Progress = Callable[[str, int, int], None]
    Paths = Mapping[str, str | os.PathLike[str]]

REPORT_FILE: Final = "report.json"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A finished evaluation.

    Attributes:
        run: What was found.
        output: The directory of its files, None where none were written.
    """

    run: EvaluationRun
    output: Path | None = None


def evaluate(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    adapters: Paths | None = None,
    models: Paths | None = None,
    controls: Paths | None = None,
    find_controls: bool = False,
    oracle: str | None = None,
    tasks: Sequence[str] = ("arc_challenge",),
    data: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    batch_size: int | str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
    seed: int = 0,
    force: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Ask a model, alone and with each of several adapters, multiple-choice questions.

    The prompts and the way they are scored are those of lm-evaluation-harness (L. Gao et al., "A
    framework for few-shot language model evaluation", 2021). The model is loaded once and the
    adapters are switched; other models are loaded when their turn comes.

    Args:
        model: A directory or a Hub id.
        output: Directory for ``items.jsonl`` and ``report.json``; None writes nothing.
        adapters: Directories of PEFT adapters of the model, by name.
        models: Other models, whole, by name.
        controls: Adapters that the others must beat, by name.
        find_controls: Also take the controls that ``transfer`` wrote beside the adapters.
        oracle: Name of the candidate that has all there is to gain, such as the tuned model.
        tasks: Names that lm-evaluation-harness knows, or ``NAME=FILE.jsonl``.
        data: Directory with ``ARC-Challenge/test.jsonl`` and ``ARC-Easy/test.jsonl``.
        limit: Only that many questions of each task.
        batch_size: Questions run at once; ``auto`` goes by the memory.
        dtype: ``fp32``, ``bf16``, or ``auto`` for what the machine does faster.
        threads: None for as many as torch takes.
        seed: Of the resampling that intervals come from.
        force: Replace what is in ``output``.
        resume: Go on with what a stopped run left in ``output``.
        progress: Called with (candidate, questions done, questions in all) after every batch.

    Raises:
        FormatError: A file cannot be read or written, or is malformed; or the memory will not do.
        MismatchError: An adapter does not fit the model.
        NonFiniteError: A model computes NaN or Inf.
        MissingDependencyError: The extra ``eval`` is not installed.
        StoppedError: Interrupted; ``resume`` continues.
        UsageError: An option that cannot be used, or an ``output`` that exists.
    """
    options = EvaluateOptions.read(
        adapters=_paths(adapters),
        models=_paths(models),
        controls=_paths(controls),
        find_controls=find_controls,
        oracle=oracle,
        tasks=tasks,
        data=None if data is None else Path(data),
        limit=limit,
        batch_size=batch_size,
        dtype=dtype,
        threads=threads,
        seed=seed,
    )
    where = None if output is None else Path(output)
    if where is None and resume:
        raise UsageError("resume needs an output: without one nothing was kept")
    if where is not None:
        _check_unfinished(where, force=force, resume=resume)
    plan = plan_evaluation(model, options)
    return run_plan(plan, where, force=force, resume=resume, progress=progress)


def _paths(given: Paths | None) -> dict[str, Path]:
    return {name: Path(path) for name, path in (given or {}).items()}


def _check_unfinished(output: Path, *, force: bool, resume: bool) -> None:
    """Refuse to begin where another run can go on, and say so.

    Raises:
        UsageError: It could.
    """
    unfinished = (output / ITEMS_FILE).exists() and not (output / REPORT_FILE).exists()
    if unfinished and not (force or resume):
        raise UsageError(
            f"{shown(output)}: holds an evaluation that was not finished; --resume continues it,"
            " --force starts again"
        )


def run_plan(
    plan: EvaluationPlan,
    output: Path | None,
    *,
    force: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Carry a plan out and write its files; see `evaluate`."""
    if output is None:
        return Evaluation(_run(plan, Journal.begin(None), progress))
    goes_on = resume and (output / ITEMS_FILE).exists()
    check_destination(output, plan.inputs, force=force or goes_on)
    with Destination(output, force or goes_on) as destination:
        (output / REPORT_FILE).unlink(missing_ok=True)
        journal = Journal.go_on(output) if goes_on and not force else Journal.begin(output)
        try:
            run = _run(plan, journal, progress)
        except KeyboardInterrupt:
            raise StoppedError(
                f"stopped after {journal.known} of {plan.questions} questions, by all candidates"
                f" together; they are kept in {shown(output)}, and --resume continues"
            ) from None
        finally:
            journal.close()
        text = json.dumps(run.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        write_text_atomic(destination.file(REPORT_FILE), text)
    return Evaluation(run, output)


def _run(plan: EvaluationPlan, journal: Journal, progress: Progress | None) -> EvaluationRun:
    started = time.perf_counter()
    work = _Work(plan, journal, progress or (lambda _what, _done, _total: None))
    work.run()
    found = {
        task.task: {
            one.name: make_items(task, one.name, journal.of(task.task, one.name))
            for one in plan.candidates
        }
        for task in plan.tasks
    }
    return EvaluationRun(
        candidates=plan.candidates,
        items=found,
        oracle=plan.options.oracle,
        seed=plan.options.seed,
        notes=(*plan.notes, *work.notes, *_idle(plan, journal)),
        seconds=time.perf_counter() - started,
    )


def _idle(plan: EvaluationPlan, journal: Journal) -> Iterable[str]:
    """Yield in words which candidates change nothing."""
    for one in plan.candidates[1:]:
        pairs = [(journal.of(t.task, BASE), journal.of(t.task, one.name)) for t in plan.tasks]
        if all(ours == theirs for ours, theirs in pairs):
            yield f"{one.name} changes nothing: all log-likelihoods are the base's, bit for bit"


class _Work:
    """The candidates at work, one after the other, and what is to be said of it.

    Attributes:
        notes: What readers must know.
    """

    def __init__(self, plan: EvaluationPlan, journal: Journal, progress: Progress) -> None:
        self.notes: list[str] = []
        self._plan, self._journal, self._progress = plan, journal, progress
        before = journal.setting
        asked = plan.options.dtype
        self._numbers = choose_numbers(asked or (before.dtype if before else None), plan.stored)
        self.notes.append(
            f"computed in {self._numbers.dtype} on {self._numbers.device}: {self._numbers.why}"
            if before is None or asked
            else f"computed in {self._numbers.dtype} on {self._numbers.device}, as it was begun"
        )
        self._tokens = before.tokens if before else 0

    def run(self) -> None:
        """Ask all candidates all questions that are not answered."""
        plan = self._plan
        self._run_on(BASE, [one for one in plan.candidates if one.kind is not Kind.MODEL])
        for one in plan.candidates:
            if one.kind is Kind.MODEL:
                self._run_on(one.name, [one])

    def _run_on(self, name: str, candidates: Sequence[Candidate]) -> None:
        """Load a model, and ask it as each of the candidates; it is dropped at the end."""
        plan, options = self._plan, self._plan.options
        first = name == BASE
        subject = open_subject(
            plan.checkpoints[name].directory,
            plan.adapters if first else [],
            self._numbers,
            options.threads,
        )
        if first:
            self._agree(subject)
        for task in plan.tasks:
            pairs = [subject.cutter.pairs(requests) for requests in task.requests]
            lines = [lines_of(one, subject.cutter.longest) for one in pairs]
            for candidate in candidates:
                self._ask(subject, candidate, task, lines)

    def _agree(self, subject: Subject) -> None:
        plan, options = self._plan, self._plan.options
        setting = Setting(
            tasks={task.task: task.digest() for task in plan.tasks},
            candidates=plan.digests(),
            dtype=self._numbers.dtype,
            tokens=self._tokens or subject.tokens_at_once(),
            questions=options.batch_size,
        )
        self._journal.agree(setting)
        self._tokens = setting.tokens

    def _ask(
        self,
        subject: Subject,
        candidate: Candidate,
        task: Prompts,
        lines: Sequence[Sequence[Line]],
    ) -> None:
        """Ask a candidate the questions of a task; a batch of which any is missing is run whole."""
        known = self._journal.of(task.task, candidate.name)
        sizes = [sum(line.tokens for line in one) for one in lines]
        planned = batches(sizes, self._tokens, self._plan.options.batch_size)
        waiting = [batch for batch in planned if not known.keys() >= set(batch)]
        self._tell(candidate)
        if not waiting:
            return
        with subject.being(candidate) as scorer:
            self._settle(scorer, candidate, lines[planned[0][0]][0])
            for batch in waiting:
                for part, found in run_in_parts(batch, lambda part: _scored(scorer, lines, part)):
                    _require_finite(found, candidate, task)
                    self._journal.record(
                        task.task,
                        candidate.name,
                        task.ids,
                        dict(zip(part, found, strict=True)),
                    )
                    self._tell(candidate)

    def _settle(self, scorer: Scorer, candidate: Candidate, line: Line) -> None:
        scorer.settle(line)
        if not scorer.shares:
            note = (
                f"{candidate.name}: each answer was run with its prompt, for the model gives other"
                " numbers when answers share it"
            )
            if note not in self.notes:
                self.notes.append(note)

    def _tell(self, candidate: Candidate) -> None:
        self._progress(candidate.name, self._journal.known, self._plan.questions)


def _scored(
    scorer: Scorer, lines: Sequence[Sequence[Line]], part: Sequence[int]
) -> list[tuple[float, ...]]:
    """Return the log-likelihoods of the answers to some questions, in the order of the answers."""
    flat = [line for number in part for line in lines[number]]
    values = iter(scorer.log_likelihoods(flat))
    found = []
    for number in part:
        answers: dict[int, float] = {}
        for line in lines[number]:
            answers.update(zip(line.numbers, next(values), strict=True))
        found.append(tuple(answers[answer] for answer in sorted(answers)))
    return found


def _require_finite(
    found: Sequence[tuple[float, ...]], candidate: Candidate, task: Prompts
) -> None:
    if not all(map(math.isfinite, (value for values in found for value in values))):
        raise NonFiniteError(
            f"{candidate.name}: computes NaN or Inf on {task.task}: its weights hold some, or"
            " overflow; try --dtype fp32"
        )

"""A model and its adapters in, what each makes of every question out."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from loragraft import system_calls
from loragraft.destination import Destination, check_destination
from loragraft.documents import PAGE_FILE, REPORT_FILE, write_report
from loragraft.errors import UsageError
from loragraft.evaluation.candidate import Kind
from loragraft.evaluation.fidelity_row import fidelity_words
from loragraft.evaluation.items import make_items
from loragraft.evaluation.journals import Journals, journals_in
from loragraft.evaluation.options import EvaluateOptions
from loragraft.evaluation.plan import plan_evaluation
from loragraft.evaluation.report import evaluation_report
from loragraft.evaluation.work import Work
from loragraft.wording import shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loragraft.evaluation.items import Items
    from loragraft.evaluation.plan import EvaluationPlan
    from loragraft.evaluation.report import EvaluationReport
    from loragraft.evaluation.work import Progress

    Paths = Mapping[str, str | os.PathLike[str]]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A finished evaluation.

    Attributes:
        report: What was found.
        items: The results of every question, by task and candidate, both by name.
        output: The directory of its files, None where none were written.
    """

    report: EvaluationReport
    items: Mapping[str, Mapping[str, Items]]
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
    tasks: Sequence[str] = (),
    data: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    batch_size: int | str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
    seed: int = 0,
    fidelity: str | os.PathLike[str] | None = None,
    text: str | os.PathLike[str] | None = None,
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
        output: Directory for ``items.jsonl``, ``fidelity.jsonl``, ``report.json`` and
            ``report.html``; None writes nothing.
        adapters: PEFT adapters of the model, by name: directories or Hub ids.
        models: Other models, whole, by name.
        controls: Adapters that the others must beat, by name.
        find_controls: Also take the controls that ``transfer`` wrote beside the adapters.
        oracle: Name of the candidate that has all there is to gain, such as the tuned model.
        tasks: Names that lm-evaluation-harness knows, or ``NAME=FILE.jsonl``; by default
            ``arc_challenge``, none where ``fidelity`` is given.
        data: Directory with ``ARC-Challenge/test.jsonl`` and ``ARC-Easy/test.jsonl``.
        limit: Only that many questions of each task.
        batch_size: Questions run at once; ``auto`` goes by the memory.
        dtype: ``fp32``, ``bf16``, or ``auto`` for what the machine does faster.
        threads: None for as many as torch takes.
        seed: Of the resampling that intervals come from.
        fidelity: The tuned model that the adapters are to come near to: how far base and
            adapters are from it on a text, without questions.
        text: File with that text; None for one in English that the package has.
        force: Replace what is in ``output``.
        resume: Go on with what a stopped run left in ``output``.
        progress: Called with (candidate, done, in all), of windows of the text while fidelity is
            measured, then of questions.

    Raises:
        FormatError: A file cannot be read or written, or is malformed; or the memory will not do.
        MismatchError: An adapter does not fit the model.
        NonFiniteError: A model computes NaN or Inf.
        MissingDependencyError: The extra ``eval`` is not installed.
        StoppedError: Interrupted; ``resume`` continues.
        UsageError: An option that cannot be used, or an ``output`` that exists.
    """
    options = EvaluateOptions.read(
        adapters=_references(adapters),
        models=_references(models),
        controls=_references(controls),
        find_controls=find_controls,
        oracle=oracle,
        tasks=tasks,
        data=None if data is None else Path(data),
        limit=limit,
        batch_size=batch_size,
        dtype=dtype,
        threads=threads,
        seed=seed,
        fidelity=None if fidelity is None else os.fspath(fidelity),
        text=None if text is None else Path(text),
    )
    where = None if output is None else Path(output)
    if where is None and resume:
        raise UsageError("resume needs an output: without one nothing was kept")
    if where is not None:
        _check_unfinished(where, force=force, resume=resume)
    plan = plan_evaluation(model, options)
    return run_plan(plan, where, force=force, resume=resume, progress=progress)


def _references(given: Paths | None) -> dict[str, str]:
    return {name: os.fspath(path) for name, path in (given or {}).items()}


def _check_unfinished(output: Path, *, force: bool, resume: bool) -> None:
    """Refuse to begin where another run can go on, and say so.

    Raises:
        UsageError: It could.
    """
    unfinished = journals_in(output) and not (output / REPORT_FILE).exists()
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
    asked = plan.tuned is not None
    if output is None:
        return _run(plan, Journals.begin(None, fidelity=asked), progress)
    goes_on = resume and journals_in(output)
    check_destination(output, plan.inputs, force=force or goes_on)
    with Destination(output, force or goes_on) as destination:
        if not (goes_on and not force):
            # A report would pass for one of the results that are going to be written beside it.
            _remove_reports(output)
        start = Journals.go_on if goes_on and not force else Journals.begin
        journals = start(output, fidelity=asked)
        try:
            found = _run(plan, journals, progress)
        except KeyboardInterrupt:
            # A report of fewer candidates would pass for one of what is being done.
            _remove_reports(output)
            raise journals.stopped(plan.questions, output) from None
        finally:
            journals.close()
        write_report(destination, found.report.to_json())
    return replace(found, output=output)


def _remove_reports(output: Path) -> None:
    for name in (REPORT_FILE, PAGE_FILE):
        system_calls.remove(output / name)


def _run(plan: EvaluationPlan, journals: Journals, progress: Progress | None) -> Evaluation:
    started = time.perf_counter()
    work = Work(plan, journals, progress or (lambda _what, _done, _total: None))
    work.run()
    items = {
        task.task: {
            one.name: make_items(task, one.name, journals.items.of(task.task, one.name))
            for one in plan.candidates
        }
        for task in plan.tasks
    }
    report = evaluation_report(
        items,
        plan.candidates,
        inputs=plan.options.to_json(plan.base.reference),
        seconds=time.perf_counter() - started,
        oracle=plan.options.oracle,
        beside=[one.name for one in plan.candidates if one.kind is Kind.CONTROL],
        seed=plan.options.seed,
        warnings=(*plan.notes, *work.notes),
        fidelity=[row.to_json() for row in work.fidelity],
        fidelity_words=fidelity_words(work.fidelity) if work.fidelity else "",
    )
    return Evaluation(report, items)

"""The candidates at work: each asked every question that is not answered yet."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from loragraft.errors import NonFiniteError
from loragraft.evaluation.batches import batches, run_in_parts
from loragraft.evaluation.candidate import BASE, Kind
from loragraft.evaluation.fidelity import fidelity_notes, measure_fidelity
from loragraft.evaluation.journal import Setting
from loragraft.evaluation.lines import lines_of
from loragraft.evaluation.machine import choose_numbers, choose_threads, thread_count
from loragraft.evaluation.subject import open_subject

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from loragraft.evaluation.candidate import Candidate
    from loragraft.evaluation.fidelity_row import FidelityRow
    from loragraft.evaluation.harness import Prompts
    from loragraft.evaluation.journals import Journals
    from loragraft.evaluation.lines import Line
    from loragraft.evaluation.plan import EvaluationPlan
    from loragraft.evaluation.scoring import Scorer
    from loragraft.evaluation.subject import Subject

    #: Told what was done last, questions done and questions in all.
    Progress = Callable[[str, int, int], None]


class Work:
    """The candidates at work, one after the other, and what is to be said of it.

    Attributes:
        notes: What readers must know.
        fidelity: What adapters come to beside the tuned model, where that is asked.
    """

    def __init__(self, plan: EvaluationPlan, journals: Journals, progress: Progress) -> None:
        self.notes: list[str] = []
        self.fidelity: tuple[FidelityRow, ...] = ()
        self._plan, self._progress = plan, progress
        self._journal, self._fidelity_journal = journals
        before, asked = journals.dtype, plan.options.dtype
        self._numbers = choose_numbers(asked or before, plan.stored)
        self.notes.append(
            f"computed in {self._numbers.dtype} on {self._numbers.device}: {self._numbers.why}"
            if before is None or asked
            else f"computed in {self._numbers.dtype} on {self._numbers.device}, as it was begun"
        )
        kept = journals.fidelity.setting
        threads = plan.options.threads or (kept.threads if kept else None)
        self._threads, why = choose_threads(threads, self._numbers.device)
        self.notes += [why] if why else []
        self._tokens = journals.items.setting.tokens if journals.items.setting else 0

    def run(self) -> None:
        """Ask all candidates all questions that are not answered."""
        plan = self._plan
        setting = plan.fidelity_setting(self._numbers, thread_count(self._threads))
        if setting is not None:
            # Before any model is loaded.
            self._fidelity_journal.agree(setting)
        self._run_on(BASE, [one for one in plan.candidates if one.kind is not Kind.MODEL])
        for one in plan.candidates:
            if one.kind is Kind.MODEL:
                self._run_on(one.name, [one])

    def _run_on(self, name: str, candidates: Sequence[Candidate]) -> None:
        """Load a model, and ask it as each of the candidates; it is dropped at the end."""
        plan = self._plan
        first = name == BASE
        subject = open_subject(
            plan.checkpoints[name].directory,
            plan.adapters if first else [],
            self._numbers,
            self._threads,
        )
        if first:
            self._agree(subject)
            self._compare_with_tuned(subject)
        for task in plan.tasks:
            pairs = [subject.cutter.pairs(requests) for requests in task.requests]
            lines = [lines_of(one, subject.cutter.longest) for one in pairs]
            for candidate in candidates:
                self._ask(subject, candidate, task, lines)

    def _compare_with_tuned(self, base: Subject) -> None:
        plan = self._plan
        if plan.tuned is None or plan.text is None:
            return
        tuned = open_subject(plan.tuned.directory, [], self._numbers, self._threads)
        self.fidelity = measure_fidelity(
            base,
            tuned,
            plan.adapters,
            plan.text,
            seed=plan.options.seed,
            journal=self._fidelity_journal,
            progress=self._progress,
        )
        self.notes += fidelity_notes(base, tuned, plan.text, self.fidelity)

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

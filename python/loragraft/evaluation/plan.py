"""What an evaluation will run: models found, questions read, before any weight is loaded."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from loragraft.calibration.language_model import require_runtime, require_whole
from loragraft.checkpoint import open_checkpoint
from loragraft.evaluation.candidate import BASE, Candidate, Kind
from loragraft.evaluation.fidelity_journal import FidelitySetting
from loragraft.evaluation.harness import Prompts, prepare, require_harness
from loragraft.evaluation.journal import digest_of
from loragraft.evaluation.tasks import find_tasks
from loragraft.evaluation.text import read_text
from loragraft.evaluation.windows import WINDOW

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from pathlib import Path

    from loragraft.checkpoint import Checkpoint
    from loragraft.evaluation.machine import Numbers
    from loragraft.evaluation.options import EvaluateOptions
    from loragraft.evaluation.text import FidelityText


class EvaluationPlan(NamedTuple):
    """An evaluation that is ready to run.

    Attributes:
        base: The model whose adapters are evaluated.
        candidates: The base, then the others.
        checkpoints: Of the base and of whole models, by name.
        tasks: What is asked.
        notes: What readers must know of the tasks.
        options: As given.
        tuned: The model that adapters are to come near to, None where that is not asked.
        text: What is read for that.
    """

    base: Checkpoint
    candidates: tuple[Candidate, ...]
    checkpoints: Mapping[str, Checkpoint]
    tasks: tuple[Prompts, ...]
    notes: tuple[str, ...]
    options: EvaluateOptions
    tuned: Checkpoint | None = None
    text: FidelityText | None = None

    @property
    def adapters(self) -> list[Candidate]:
        """Adapters of the base, controls included."""
        return [one for one in self.candidates if one.kind in {Kind.ADAPTER, Kind.CONTROL}]

    @property
    def inputs(self) -> list[Path]:
        """Directories that are read."""
        whole = (*self.checkpoints.values(), *([self.tuned] if self.tuned else ()))
        found = [checkpoint.directory for checkpoint in whole]
        return found + [one.path for one in self.adapters]

    @property
    def questions(self) -> int:
        """Questions that are asked, by all candidates together."""
        return len(self.candidates) * sum(len(task.ids) for task in self.tasks)

    @property
    def stored(self) -> str:
        """What most of the base's weights are stored as."""
        counts: Counter[str] = Counter()
        for entry in self.base.tensors.values():
            counts[entry.dtype] += entry.nbytes
        return max(counts, key=counts.__getitem__, default="")

    def fidelity_setting(self, numbers: Numbers, threads: int) -> FidelitySetting | None:
        """Return what results of fidelity depend on; None where it is not asked.

        Args:
            numbers: What is computed with.
            threads: The same.

        Raises:
            FormatError: A file cannot be read.
        """
        if self.tuned is None or self.text is None:
            return None
        whole = self.digests()
        return FidelitySetting(
            text=self.text.digest(),
            tuned=_identity(self.tuned),
            candidates={name: whole[name] for name in (BASE, *(one.name for one in self.adapters))},
            dtype=numbers.dtype,
            device=numbers.device,
            threads=threads,
            window=WINDOW,
        )

    def digests(self) -> dict[str, str]:
        """Return a hash of what every candidate consists of, by name.

        Raises:
            FormatError: A file cannot be read.
        """
        found = {name: _identity(checkpoint) for name, checkpoint in self.checkpoints.items()}
        for one in self.adapters:
            files = sorted(one.path.glob("adapter_*"))
            found[one.name] = digest_of([path for path in files if path.is_file()])
        return found


def plan_evaluation(model: str | os.PathLike[str], options: EvaluateOptions) -> EvaluationPlan:
    """Find all models and read all questions.

    Args:
        model: A directory or a Hub id.
        options: What is to be evaluated, and how.

    Raises:
        FormatError: A file is missing or malformed.
        UsageError: No such task.
        MissingDependencyError: A package that this needs is not installed.
    """
    tasks = find_tasks(options.tasks, options.data, options.limit) if options.tasks else ()
    base = open_checkpoint(model)
    checkpoints = {BASE: base}
    for one in options.candidates:
        if one.kind is Kind.MODEL:
            checkpoints[one.name] = open_checkpoint(one.given)
    tuned = None if options.fidelity is None else open_checkpoint(options.fidelity)
    for checkpoint in (*checkpoints.values(), *([tuned] if tuned else ())):
        require_whole(checkpoint)
    text = read_text(options.text) if tuned else None
    require_runtime()
    require_harness()
    prompts = prepare(tasks, options.limit) if tasks else ()
    candidates = (Candidate(BASE, Kind.BASE, base.directory), *options.candidates)
    notes = tuple(task.note for task in tasks if task.note)
    return EvaluationPlan(base, candidates, checkpoints, prompts, notes, options, tuned, text)


def _identity(checkpoint: Checkpoint) -> str:
    """Return a hash of the files of a model, the weights by size and time alone."""
    files = {entry.path.name: entry.identity for entry in checkpoint.tensors.values()}
    content = [
        sorted((name, list(identity or ())) for name, identity in files.items()),
        checkpoint.tokenizer_files(),
        dict(checkpoint.config or {}),
    ]
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

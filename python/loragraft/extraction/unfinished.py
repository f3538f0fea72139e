"""The files of an extraction that is not finished yet, and whether they outlive it."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from loragraft import system_calls
from loragraft.errors import StoppedError
from loragraft.extraction.journal import Journal
from loragraft.spool import JOURNAL_FILE, SPOOL_FILE, Spool

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

    from loragraft.extraction.journal import Done, Searched
    from loragraft.extraction.plan import ExtractionPlan


class Unfinished:
    """Spool and journal of a run, in its output directory.

    They go when the work is done or fails. Where it is stopped they stay, so that another run can
    go on from there; a killed process leaves them behind as well.

    Attributes:
        spool: The factors.
        journal: What is finished.
        done: What an earlier run had finished.
        searched: Searches for exact factors that it had finished.
    """

    spool: Spool
    journal: Journal
    done: tuple[Done, ...] = ()
    searched: tuple[Searched, ...] = ()

    def __init__(self, directory: Path, plan: ExtractionPlan, *, resume: bool) -> None:
        self._directory, self._plan = directory, plan
        self._resume = resume and is_unfinished(directory)

    def __enter__(self) -> Self:
        if self._resume:
            self._go_on()
        else:
            self._begin()
        return self

    def _begin(self) -> None:
        try:
            # The journal comes first: a spool alone is of no use to anybody.
            self.journal = Journal.begin(self._directory, self._plan)
            try:
                self.spool = Spool.at(self._directory / SPOOL_FILE)
            except BaseException:
                self.journal.close()
                raise
        except BaseException:
            self._remove()
            raise

    def _go_on(self) -> None:
        self.spool = Spool.at(self._directory / SPOOL_FILE, keep=True)
        try:
            self.journal, self.done, self.searched = Journal.go_on(
                self._directory, self._plan, self.spool
            )
        except BaseException:
            self.spool.__exit__()
            raise

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.journal.close()
        self.spool.__exit__()
        finished = len(self.done) + self.journal.recorded
        if kind is not None and issubclass(kind, KeyboardInterrupt) and finished:
            total = sum(len(unit.base) for unit in self._plan.units)
            raise StoppedError(
                f"stopped after {finished} of {total} matrices; --resume continues"
            ) from None
        # What was there before this run fails with it only where it was used up.
        if kind is None or not self._resume:
            self._remove()

    def _remove(self) -> None:
        for name in (JOURNAL_FILE, SPOOL_FILE):
            with contextlib.suppress(OSError):
                system_calls.remove(self._directory / name)


def is_unfinished(directory: Path) -> bool:
    """Say whether a directory holds a run that can be continued."""
    return os.path.lexists(directory / JOURNAL_FILE)

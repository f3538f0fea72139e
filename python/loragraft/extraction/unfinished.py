"""The files of an extraction that is not finished yet, and whether they outlive it."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

from loragraft.errors import StoppedError
from loragraft.extraction.journal import JOURNAL_FILE, Journal
from loragraft.spool import Spool

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

    from loragraft.extraction.journal import Done, Searched
    from loragraft.extraction.plan import ExtractionPlan

_SPOOL_FILE: Final = ".loragraft-spool"


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
        self.spool = Spool.at(self._directory / _SPOOL_FILE, keep=self._resume)
        try:
            if self._resume:
                self.journal, self.done, self.searched = Journal.go_on(
                    self._directory, self._plan, self.spool
                )
            else:
                self.journal = Journal.begin(self._directory, self._plan)
        except BaseException:
            self.spool.__exit__()
            if not self._resume:
                self._remove()
            raise
        return self

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
        for name in (JOURNAL_FILE, _SPOOL_FILE):
            with contextlib.suppress(OSError):
                (self._directory / name).unlink()


def is_unfinished(directory: Path) -> bool:
    """Say whether a directory holds a run that can be continued."""
    return os.path.lexists(directory / JOURNAL_FILE)

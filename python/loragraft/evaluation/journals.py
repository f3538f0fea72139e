"""The two journals of a run, of questions and of fidelity, and what is said of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from loragraft import system_calls
from loragraft.errors import StoppedError
from loragraft.evaluation.fidelity_journal import FIDELITY_FILE, FidelityJournal
from loragraft.evaluation.journal import ITEMS_FILE, Journal
from loragraft.wording import listed, shown

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self


class Journals(NamedTuple):
    """What a run keeps.

    Attributes:
        items: Of questions.
        fidelity: Of windows of a text; where that is not asked, nothing comes into it.
    """

    items: Journal
    fidelity: FidelityJournal

    @classmethod
    def begin(cls, directory: Path | None, *, fidelity: bool) -> Self:
        """Start anew; without a directory nothing outlives the run.

        Raises:
            FormatError: A file cannot be written.
        """
        if directory is not None:
            # Without fidelity nobody would overwrite that of an earlier run.
            system_calls.remove(directory / FIDELITY_FILE)
        where = directory if fidelity else None
        return cls(Journal.begin(directory), FidelityJournal.begin(where))

    @classmethod
    def go_on(cls, directory: Path, *, fidelity: bool) -> Self:
        """Go on with what a stopped run left.

        Raises:
            FormatError: A file cannot be read or written.
            UsageError: Something else wrote it.
        """
        kept = FidelityJournal.go_on(directory) if fidelity else FidelityJournal.begin(None)
        return cls(Journal.go_on(directory), kept)

    @property
    def dtype(self) -> str | None:
        """What the run that is gone on with computed in; None where there is none."""
        found = self.items.setting or self.fidelity.setting
        return None if found is None else found.dtype

    def close(self) -> None:
        """Close both files; one without results goes away."""
        self.items.close()
        self.fidelity.close()

    def stopped(self, questions: int, output: Path) -> StoppedError:
        """Return the error of a run that was interrupted.

        Args:
            questions: That were to be answered, by all candidates together.
            output: Where what is known lies.
        """
        told = []
        if self.fidelity.done:
            told.append(f"{self.fidelity.done} of {self.fidelity.total} windows of the text")
        elif self.fidelity.known:
            told.append(f"{self.fidelity.known} windows of the text")
        if self.items.known:
            told.append(f"{self.items.known} of {questions} questions")
        if not told:
            return StoppedError("stopped before there were any results; start again")
        return StoppedError(
            f"stopped after {listed(told)}, by all candidates together; they are kept in"
            f" {shown(output)}, and --resume continues"
        )


def journals_in(output: Path) -> bool:
    """Whether a directory has what another run can go on with."""
    return any((output / name).exists() for name in (ITEMS_FILE, FIDELITY_FILE))

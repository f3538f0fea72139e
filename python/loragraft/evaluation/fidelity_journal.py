"""What every window of a text came to, kept while fidelity is measured, so that it can go on.

A sibling of `journal`: a line for each window and candidate. Of the tuned model only the loss is
kept, not its probabilities: it runs again in windows that some candidate has not read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from loragraft.evaluation.divergence import Sums
from loragraft.evaluation.results_file import ResultsFile, ResultsJournal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FIDELITY_FILE: Final = "fidelity.jsonl"
_SCHEMA: Final = "loragraft.fidelity/1"


class FidelitySetting(NamedTuple):
    """What results depend on.

    Attributes:
        text: Hash of the text.
        tuned: Hash of the tuned model's files.
        candidates: The same of the base and of the adapters, by name.
        dtype: What is computed with.
        device: Where.
        threads: Threads: other numbers of them may round otherwise.
        window: Tokens of a window at most.
    """

    text: str
    tuned: str
    candidates: Mapping[str, str]
    dtype: str
    device: str
    threads: int
    window: int


class FidelityJournal(ResultsJournal[FidelitySetting]):
    """The journal of one run.

    Attributes:
        setting: Of this run, or of the one that it goes on with.
    """

    name = FIDELITY_FILE

    def __init__(self, file: ResultsFile) -> None:
        """See `ResultsJournal`."""
        # The tuned model is nobody's candidate, and has no name that an adapter could have.
        self._results: dict[str | None, dict[int, Sums]] = {}
        self._asked: tuple[str, ...] = ()
        self._windows = 0
        super().__init__(file)

    def _take(self, row: Mapping[str, Any]) -> None:
        if row.get("schema") == _SCHEMA:
            self.setting = FidelitySetting(*(row[key] for key in FidelitySetting._fields))
        elif "kl" in row:
            found = Sums(*(float(row[key]) for key in Sums._fields))
            self.of(row["candidate"])[int(row["window"])] = found

    def agree(self, setting: FidelitySetting) -> None:
        """Say what this run depends on.

        Raises:
            UsageError: The run that is gone on with had something else.
        """
        before = self.setting
        if before is not None:
            self._require_same(setting, before)
            candidates = {**before.candidates, **setting.candidates}
            setting = setting._replace(candidates=candidates)
        self.setting = setting
        self._file.append([{"schema": _SCHEMA, **setting._asdict()}])

    def _require_same(self, ours: FidelitySetting, theirs: FidelitySetting) -> None:
        file = self._file
        for what, one, other in (
            ("text", ours.text, theirs.text),
            ("tuned model", ours.tuned, theirs.tuned),
        ):
            if one != other:
                raise file.other(f"another {what}")
        # A name without results may be given to something else.
        known = {name: value for name, value in theirs.candidates.items() if self.of(name)}
        file.require_same("candidate", ours.candidates, known)
        figures: tuple[tuple[str, Any, Any], ...] = (
            ("--dtype", ours.dtype, theirs.dtype),
            ("the device", ours.device, theirs.device),
            ("--threads", ours.threads, theirs.threads),
            ("windows of", ours.window, theirs.window),
        )
        for what, mine, other in figures:
            if mine != other:
                raise file.other(f"{what} {other}, not {mine}")

    def expect(self, candidates: Sequence[str], windows: int) -> None:
        """Say who is to read how many windows, for `done` and `total`."""
        self._asked, self._windows = tuple(candidates), windows

    def record(self, window: int, candidate: str | None, found: Sums) -> None:
        """Note what a candidate made of a window.

        Args:
            window: Its number.
            candidate: Its name; None for the tuned model.
            found: What is known of it.

        Raises:
            FormatError: The disk is full or fails.
        """
        self._file.append([{"window": window, "candidate": candidate, **found._asdict()}])
        self.of(candidate)[window] = found

    def of(self, candidate: str | None) -> dict[int, Sums]:
        """Return what is known of a candidate, or of the tuned model, by number of the window."""
        return self._results.setdefault(candidate, {})

    @property
    def known(self) -> int:
        """Windows read, by all candidates together that ever were."""
        return sum(len(found) for name, found in self._results.items() if name is not None)

    @property
    def done(self) -> int:
        """Windows read, by all candidates of this run together."""
        return sum(len(self.of(name)) for name in self._asked)

    @property
    def total(self) -> int:
        """Windows to read, by all candidates of this run together."""
        return self._windows * len(self._asked)

    def close(self) -> None:
        """Close the file, which stays if it has results."""
        self._file.close(keep=any(self._results.values()))

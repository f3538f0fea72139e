"""What an extraction has finished so far, so that a stopped one can go on.

Two files lie in the output directory while the work lasts: the spool with the factors, and the
journal, a line of JSON for every finished matrix. A line tells where its factors lie and their
checksums, so that what a crash cut short is noticed and computed again. The first line is a
fingerprint of everything that the results depend on.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from loragraft import __version__, native, system_calls
from loragraft.errors import FormatError, UsageError
from loragraft.extraction.exact.outcome import Found
from loragraft.extraction.factors import SpooledFactors
from loragraft.extraction.findings import Measurement
from loragraft.spool import JOURNAL_FILE, Extent
from loragraft.wording import reason, shown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Self

    from loragraft.extraction.plan import ExtractionPlan
    from loragraft.spool import Spool

_LIST_FIELDS: Final = ("optimal_squares", "residual_squares", "singular_values", "further_values")


class Trial(NamedTuple):
    """A search for exact factors in all matrices of a module.

    Attributes:
        number: Of the module in the plan.
        rank: Of the factors.
        slack: Share of |ΔW| by which the cells are wider.
    """

    number: int
    rank: int
    slack: float = 0.0


class Searched(NamedTuple):
    """A finished search in one matrix: what it gave, and where its factors lie, if anywhere."""

    trial: Trial
    matrix: int
    found: Found
    factors: SpooledFactors | None


class Done(NamedTuple):
    """A matrix that an earlier run finished.

    Attributes:
        unit: Which of the plan's units.
        matrix: Which of its matrices.
        measurement: Its figures.
        factors: Where its factors lie; None where it has none.
    """

    unit: int
    matrix: int
    measurement: Measurement
    factors: SpooledFactors | None


def fingerprint(plan: ExtractionPlan) -> str:
    """Return a hash of the inputs, the options and the program: all that the bytes depend on."""
    options = plan.options
    digest = hashlib.blake2b(digest_size=16)
    settings = (
        options.rank.most,
        options.nested,
        options.layout,
        options.scaling,
        options.dtype,
        options.oversampling,
        options.power_iterations,
        options.seed,
        options.exact and options.exact_dtype,
        __version__,
        native.isa(),
    )
    digest.update(repr(settings).encode())
    for number, unit in enumerate(plan.units):
        rank = plan.modules[number].rank if number < len(plan.modules) else 0
        digest.update(f"{unit.name}\0{len(unit.base)}\0{rank}".encode())
        if rank:
            digest.update(repr(plan.modules[number].linear.address).encode())
        for entry in unit.entries:
            state = entry.identity
            digest.update(
                f"{entry.path}\0{entry.name}\0{entry.offset}\0{state}".encode(
                    "utf-8", "surrogatepass"
                )
            )
    return digest.hexdigest()


class Journal:
    """The journal of one run, open for appending.

    Attributes:
        recorded: Matrices noted by this run.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self._path, self._fd = path, fd
        self.recorded = 0

    @classmethod
    def begin(cls, directory: Path, plan: ExtractionPlan) -> Self:
        """Start a journal anew.

        Raises:
            FormatError: It cannot be written.
        """
        journal = cls._open(directory / JOURNAL_FILE, os.O_CREAT | os.O_TRUNC)
        return journal._begun_with(json.dumps({"fingerprint": fingerprint(plan)}).encode() + b"\n")

    @classmethod
    def go_on(
        cls, directory: Path, plan: ExtractionPlan, spool: Spool
    ) -> tuple[Self, tuple[Done, ...], tuple[Searched, ...]]:
        """Open the journal of a stopped run; return it and what had been finished.

        Raises:
            UsageError: That run had other inputs or options.
            FormatError: It cannot be read or written.
        """
        path = directory / JOURNAL_FILE
        try:
            lines = path.read_bytes().split(b"\n")
        except OSError as error:
            raise FormatError(f"{shown(path)}: cannot be read: {reason(error)}") from error
        head = _parsed(lines[0])
        if head is None:
            # It was killed before it had written a line.
            return cls.begin(directory, plan), (), ()
        if head.get("fingerprint") != fingerprint(plan):
            raise UsageError(
                f"{shown(directory)}: holds an unfinished run of other inputs, options or another"
                " version; give --force instead of --resume to start again"
            )
        rows = list(_each_row(lines[1:], spool))
        done = tuple(_done(*row) for row in rows if "trial" not in row[0])
        searched = tuple(_searched(*row) for row in rows if "trial" in row[0])
        # A line that a crash cut short must not run into the next.
        return cls._open(path, 0)._begun_with(b"\n"), done, searched

    @classmethod
    def _open(cls, path: Path, flags: int) -> Self:
        try:
            fd = system_calls.open_file(path, os.O_WRONLY | os.O_APPEND | flags, 0o600)
        except OSError as error:
            raise FormatError(f"{shown(path)}: cannot be written: {reason(error)}") from error
        return cls(path, fd)

    def _begun_with(self, data: bytes) -> Self:
        try:
            self._write(data)
        except BaseException:
            self.close()
            raise
        return self

    def record(
        self, unit: int, matrix: int, found: Measurement, factors: SpooledFactors | None
    ) -> None:
        """Note that a matrix is finished, its factors being in the spool already.

        Raises:
            FormatError: The disk is full or fails.
        """
        row: dict[str, Any] = {"unit": unit, "matrix": matrix, **found._asdict()}
        row.update({name: list(row[name]) for name in _LIST_FIELDS})
        if factors is not None:
            row["factors"] = [factors.lora_a, factors.lora_b]
        self._append(row)
        self.recorded += 1

    def record_search(self, searched: Searched) -> None:
        """Note that a search for exact factors is finished, these being in the spool already.

        Raises:
            FormatError: The disk is full or fails.
        """
        trial, matrix, found, factors = searched
        self._append(
            {
                "trial": list(trial),
                "matrix": matrix,
                "found": list(found),
                "factors": [factors.lora_a, factors.lora_b] if factors else [],
            }
        )

    def _append(self, row: dict[str, Any]) -> None:
        self._write(json.dumps(row).encode() + b"\n")

    def _write(self, data: bytes) -> None:
        try:
            system_calls.append(self._fd, data)
        except OSError as error:
            raise FormatError(f"{shown(self._path)}: cannot be written: {reason(error)}") from error

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _each_row(lines: list[bytes], spool: Spool) -> Iterator[tuple[dict[str, Any], list[Extent]]]:
    """Yield what the lines tell and the spool still holds."""
    for line in lines:
        row = _parsed(line)
        if row is None:
            continue
        extents = [Extent(*place) for place in row.pop("factors", ())]
        if all(map(spool.holds, extents)):
            yield row, extents


def _done(row: dict[str, Any], extents: list[Extent]) -> Done:
    unit, matrix = row.pop("unit"), row.pop("matrix")
    found = Measurement(**row)
    factors = SpooledFactors(found.dtype, found.rank, *extents) if extents else None
    return Done(unit, matrix, found, factors)


def _searched(row: dict[str, Any], extents: list[Extent]) -> Searched:
    found = Found(*row["found"])
    factors = SpooledFactors(found.dtype, found.rank, *extents) if extents else None
    return Searched(Trial(*row["trial"]), row["matrix"], found, factors)

"""What a hostile case is: files that are made below a directory, and what commands answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: Makes the files of a case in a directory that is there and empty.
Maker = Callable[[Path], None]

#: Command lines; BAD is what the case has made, the others are good files, OUT is free.
CHECKPOINT: Final = (
    ("inspect", "BAD"),
    ("extract", "BASE", "BAD", "-o", "OUT", "--rank", "2"),
    ("extract", "BAD", "TUNED", "-o", "OUT", "--rank", "2"),
    ("verify", "BASE", "BAD", "ADAPTER"),
    ("merge", "BAD", "ADAPTER", "-o", "OUT"),
    ("compare", "BASE", "BAD"),
)
ADAPTER: Final = (
    ("inspect", "BAD"),
    ("verify", "BASE", "TUNED", "BAD"),
    ("merge", "BASE", "BAD", "-o", "OUT"),
    ("transfer", "BAD", "--source", "BASE", "--target", "TUNED", "--method", "copy", "-o", "OUT"),
)
#: What only looks at headers, for cases that are legal but odd.
LOOK: Final = (("inspect", "BAD"),)
EXTRACT: Final = (CHECKPOINT[1],)
MERGE: Final = (ADAPTER[2],)


@dataclass(frozen=True, slots=True)
class Case:
    """Files from a stranger.

    Attributes:
        kind: The module of the corpus that it comes from.
        name: What is wrong, or odd, with them; unique among its kind.
        make: Makes the files.
        commands: Command lines to try.
        codes: The exit codes that are right, of all of these commands.
        says: A part of the message.
        subject: What BAD stands for, below the directory of the case; empty for the directory.
        alone: It may take long or crash: give it a process of its own.
    """

    kind: str
    name: str
    make: Maker
    commands: tuple[tuple[str, ...], ...]
    codes: tuple[int, ...] = (3,)
    says: str = ""
    subject: str = ""
    alone: bool = False

    @property
    def label(self) -> str:
        """Kind and name."""
        return f"{self.kind}: {self.name}"


def unique(cases: Iterable[Case]) -> tuple[Case, ...]:
    """Return cases after a check that no two have one label."""
    found = {}
    for case in cases:
        if case.label in found:
            raise ValueError(f"two cases are called {case.label}")
        found[case.label] = case
    return tuple(found.values())

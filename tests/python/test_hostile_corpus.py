"""Every case of tests/data/hostile on the real commands: one line, the right code, in bounds."""

from __future__ import annotations

import shutil
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from hostile import toy
from hostile.corpus import all_cases
from hostile_runs import Runner
from reliability import record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hostile.case import Case

CASES = all_cases()
ALONE = tuple(case for case in CASES if case.alone)
TOGETHER = tuple(case for case in CASES if not case.alone)
#: Cases of one test: pytest itself takes longer for a test than most of them.
PORTION = 25
PORTIONS = [TOGETHER[start : start + PORTION] for start in range(0, len(TOGETHER), PORTION)]
MOST_KILOBYTES = 4_000_000
CODES: Counter[int] = Counter()


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("good")
    toy.write_good(directory)
    return directory


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    with Runner(tmp_path_factory.mktemp("said")) as runner:
        yield runner


def faults(case: Case, runner: Runner, good: Path, place: Path) -> list[str]:
    """What is wrong with the answers to the command lines of a case."""
    bad, out = place / "bad", place / "out"
    bad.mkdir()
    case.make(bad)
    subject = bad / case.subject if case.subject else bad
    paths = {"BAD": str(subject), "OUT": str(out)}
    paths |= {name: str(good / name) for name in ("BASE", "TUNED", "ADAPTER")}
    found = []
    for command in case.commands:
        outcome = runner.run([paths.get(word, word) for word in command])
        CODES[outcome.code] += 1
        told = outcome.faults(case.codes, case.says)
        if outcome.code and out.exists():
            told.append(f"left {sorted(path.name for path in out.iterdir())} behind")
        if outcome.kilobytes > MOST_KILOBYTES:
            told.append(f"{outcome.kilobytes} kB of memory")
        found += [f"{case.label}: {' '.join(command)}: {fault}" for fault in told]
        shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(bad)
    return found


@pytest.mark.parametrize("portion", PORTIONS, ids=lambda portion: portion[0].label)
def test_cases(portion: tuple[Case, ...], runner: Runner, good: Path, tmp_path: Path) -> None:
    found = [fault for case in portion for fault in faults(case, runner, good, tmp_path)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("case", ALONE, ids=lambda case: case.label)
def test_cases_that_may_take_long(case: Case, good: Path, tmp_path: Path) -> None:
    said = tmp_path / "said"
    said.mkdir()
    with Runner(said) as alone:
        found = faults(case, alone, good, tmp_path)
    assert not found, "\n".join(found)


def test_there_are_enough_cases() -> None:
    kinds = Counter(case.kind for case in CASES)
    assert len(CASES) >= 150
    record(
        "hostile_corpus",
        {
            "cases": len(CASES),
            "cases by kind": dict(kinds),
            "command lines": sum(len(case.commands) for case in CASES),
            "command lines by exit code": {str(code): CODES[code] for code in sorted(CODES)},
        },
    )

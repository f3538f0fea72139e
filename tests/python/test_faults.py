"""A failing, full or slow disk, Ctrl-C and kill -9 at every system call that writes."""

from __future__ import annotations

import errno
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from fault_cases import Case, give_old, make_cases
from fault_server import FaultServer
from reliability import record

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = (
    "extract",
    "auto",
    "whole",
    "exact",
    "extract over an old one",
    "merge",
    "merge shards",
    "transfer",
)
KINDS = ("error", "kill", "stop")
NUMBERS = (errno.EIO, errno.ENOSPC)


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


@pytest.fixture(scope="module")
def cases(
    request: pytest.FixtureRequest,
    server: FaultServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Case]]:
    failed_before = request.session.testsfailed
    with pytest.MonkeyPatch.context() as patch:
        made = make_cases(tmp_path_factory.mktemp("faults"), patch)
    give_old(made, server)
    for case in made:
        case.learn(server)
    yield {case.name: case for case in made}
    counts = sum((case.counts for case in made), Counter())
    record(
        "faults",
        {
            "faults_injected": sum(counts.values()),
            "by_kind": dict(counts),
            "system_calls": {case.name: len(case.calls) for case in made},
            "tests_failed": request.session.testsfailed - failed_before,
        },
    )


@pytest.mark.parametrize("kind", ["interrupt", "short"])
@pytest.mark.parametrize("name", NAMES)
def test_interrupted_calls_and_short_writes_are_survived(
    server: FaultServer, cases: dict[str, Case], name: str, kind: str
) -> None:
    """EINTR at the first try of every call; every write does half of what it was given."""
    case = cases[name]
    assert case.befall(server, kind, -1).code == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_some_calls_fail(server: FaultServer, cases: dict[str, Case], name: str, kind: str) -> None:
    """A few calls of every command: `test_every_call_fails` takes them all."""
    case = cases[name]
    step = max(1, len(case.calls) // 5)
    for at in range(KINDS.index(kind) * step // len(KINDS), len(case.calls), step):
        case.befall(server, kind, at, NUMBERS[at % 2])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_every_call_fails(
    server: FaultServer, cases: dict[str, Case], name: str, kind: str
) -> None:
    """The n-th call, for every n until a run ends undisturbed."""
    case = cases[name]
    for at in range(len(case.calls)):
        for number in NUMBERS if kind == "error" else NUMBERS[:1]:
            case.befall(server, kind, at, number)

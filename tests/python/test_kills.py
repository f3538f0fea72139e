"""kill -9 at random moments, over and over: nothing is ever half, and the end is the same."""

from __future__ import annotations

import random
import signal
import time
from typing import TYPE_CHECKING

import pytest

import command_line
import exact_models
import transfer_files
from fault_cases import Case
from fault_server import FaultServer
from reliability import record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KILLS = 200
#: In a row, before a run may come to its end.
_MOST_IN_A_ROW = 6


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


def make_cases(tmp_path: Path) -> list[Case]:
    """Runs of some tenths of a second, most of which is work."""
    shapes = {f"model.layers.{layer}.mlp.up_proj.weight": (320, 256) for layer in range(16)}
    base, tuned = command_line.write_pair(tmp_path, shapes)
    merged = exact_models.merge(tmp_path / "merged")
    other = transfer_files.moved(tuned, tmp_path / "other", change=0.01)
    pair: list[object] = ["extract", base, tuned, "--threads", "1", "--rank"]
    exact = ["extract", merged.base, merged.tuned, "--rank", "auto", "--exact", "--patch"]
    adapter, resume, force, out = tmp_path / "adapter", ["--resume"], ["--force"], tmp_path / "out"
    command_line.run([str(word) for word in (*pair, "4", "-o", adapter)])
    sides = ["--source", base, "--target", other, "--method", "copy"]
    return [
        Case("extract", [*pair, "32", "--power-iterations", "8"], out / "plain", resume),
        Case("auto", [*pair, "auto", "--max-rank", "32"], out / "auto", resume),
        Case("exact", exact, out / "exact", resume),
        Case("merge", ["merge", base, adapter], out / "merge", force),
        Case("transfer", ["transfer", adapter, *sides], out / "transfer", force),
    ]


def kill_often(server: FaultServer, case: Case, kills: int, chance: random.Random) -> int:
    """Kill a command so many times; return how often a run came to its end."""
    started = time.monotonic()
    case.learn(server)
    whole = time.monotonic() - started
    done = ends = 0
    while done < kills:
        case.prepare()
        in_a_row = min(kills - done, chance.randint(1, _MOST_IN_A_ROW))
        for turn in range(in_a_row):
            more = case.again if turn else []
            moment = chance.uniform(0.01, 1.1 * whole)
            run = server.run([*case.arguments, "-o", case.out, *more], seconds=moment)
            where = f"{case.name}: kill {done} after {moment:.3f} s"
            assert run.code in {0, 2, -signal.SIGKILL}, f"{where}: {run.code} {run.error}"
            case.check_left(where, finished=run.code == 0)
            if run.code != -signal.SIGKILL:
                break
            done += 1
        case.check_again(server, f"{case.name}: after {done} kills")
        ends += 1
    return ends


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_random_moments(tmp_path: Path, server: FaultServer) -> None:
    chance, ends, names = random.Random(9), 0, []
    cases = make_cases(tmp_path)
    for case in cases:
        ends += kill_often(server, case, KILLS // len(cases), chance)
        names.append(case.name)
    record("kills", {"kills": KILLS, "finished_afterwards": ends, "lost": 0, "commands": names})

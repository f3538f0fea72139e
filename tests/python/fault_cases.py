"""Commands that faults befall, and what may lie in their directories afterwards."""

from __future__ import annotations

import errno
import json
import shutil
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import exact_models
import lora_files as files
import transfer_files
from loragraft.adapter.peft import read_adapter
from loragraft.checkpoint import open_checkpoint
from loragraft.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import pytest

    from fault_server import FaultServer, Run

#: Files whose bytes tell when a run was, and so are compared in form only.
DATED = frozenset({"report.json", "report.html", "README.md"})
#: Without one of these a directory holds no result.
MARKS = frozenset({"adapter_config.json", "config.json"})
_SMALL = {"model.layers.0.self_attn.q_proj": (24, 24), "model.layers.0.mlp.up_proj": (32, 24)}


@dataclass
class Case:
    """A command, and what it gives when nothing disturbs it.

    Attributes:
        name: For the figures.
        arguments: Of the command line.
        out: Where it writes.
        again: Options that make it anew or go on, after whatever has happened.
        old: What lay there before; None for nothing.
        wanted: What it gives: bytes by name.
        calls: The system calls of an undisturbed run.
        counts: What befell it.
    """

    name: str
    arguments: list[object]
    out: Path
    again: list[str]
    old: dict[str, bytes] | None = None
    wanted: dict[str, bytes] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def command(self) -> list[object]:
        force = ["--force"] if self.old is not None else []
        return [*self.arguments, "-o", self.out, *force]

    def prepare(self) -> None:
        """Put back what lay there before."""
        shutil.rmtree(self.out, ignore_errors=True)
        if self.old is not None:
            self.out.mkdir()
            for name, data in self.old.items():
                (self.out / name).write_bytes(data)

    def learn(self, server: FaultServer) -> None:
        """Run it undisturbed."""
        self.prepare()
        run = server.run(self.command)
        assert run.code == 0, run.error
        self.wanted, self.calls = contents(self.out), run.calls

    def befall(self, server: FaultServer, kind: str, at: int, number: int = errno.EIO) -> Run:
        """Let a call fail, and check what is left and that another run makes good."""
        self.prepare()
        run = server.run(self.command, kind, at, number)
        where = f"{self.name}: {kind} at call {at} ({self.calls[at] if at >= 0 else ''})"
        self.check_end(run, kind, where)
        self.check_left(where, finished=run.code == 0)
        self.check_again(server, where)
        self.counts[kind] += 1
        return run

    def check_end(self, run: Run, kind: str, where: str) -> None:
        codes = {"error": (0, 3), "kill": (-9,), "stop": (0, 7)}.get(kind, (0,))
        assert run.code in codes, f"{where}: exit code {run.code}: {run.error}"
        if run.code in {3, 7}:
            lines = run.error.splitlines()
            assert len(lines) == 1, f"{where}: {run.error}"
            assert lines[0].startswith("loragraft: error: "), where
            told = {3: "annot be ", 7: "stopped"}[run.code]
            assert told in lines[0], f"{where}: {lines[0]}"

    def check_left(self, where: str, *, finished: bool) -> None:
        """Every file is whole; and where there is a mark, they belong together."""
        left = {name: data for name, data in contents(self.out).items() if name[0] != "."}
        old = self.old or {}
        for name, data in left.items():
            whole = name in DATED or data in (self.wanted.get(name), old.get(name))
            assert whole, f"{where}: {name} is half"
        marks = MARKS & left.keys() & self.wanted.keys()
        new = all(same(self.wanted, left, name) for name in self.wanted)
        assert new or not finished, f"{where}: said to be finished, and is not"
        if marks:
            assert new or left == old, f"{where}: {sorted(left)} pass for a result"
            opens(self.out)
        elif "config.json" in self.wanted:
            self.check_unmixed(left, where)

    def check_unmixed(self, left: dict[str, bytes], where: str) -> None:
        """Files of a checkpoint can be read without its config, so they must belong together."""
        try:
            shards = open_checkpoint(self.out).shards
        except FormatError:
            return
        names = {shard.name for shard in shards}
        sides = [side for side in (self.wanted, self.old) if side is not None]
        assert any(
            names == {name for name in side if name.endswith(".safetensors")}
            and all(left[name] == side[name] for name in names)
            for side in sides
        ), f"{where}: {sorted(names)} pass for a checkpoint"

    def check_again(self, server: FaultServer, where: str) -> None:
        run = server.run([*self.arguments, "-o", self.out, *self.again])
        nothing_to_do = run.code == 2 and "nothing to resume" in run.error
        assert run.code == 0 or nothing_to_do, f"{where}: then {run.code}: {run.error}"
        found = contents(self.out)
        assert found.keys() == self.wanted.keys(), f"{where}: then {sorted(found)}"
        for name in self.wanted:
            assert same(self.wanted, found, name), f"{where}: {name} has other bytes afterwards"


def contents(directory: Path) -> dict[str, bytes]:
    if not directory.exists():
        return {}
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def same(one: dict[str, bytes], other: dict[str, bytes], name: str) -> bool:
    """Say whether a file is the same in both, or at least whole where it tells the time."""
    if name not in one or name not in other:
        return False
    if name not in DATED:
        return one[name] == other[name]
    if name == "report.json":
        ours, theirs = (json.loads(side[name])["modules"] for side in (one, other))
        return [row["name"] for row in ours] == [row["name"] for row in theirs]
    return other[name].rstrip().endswith(one[name].rstrip()[-8:])


def opens(directory: Path) -> None:
    """Read a result as its readers do: header, config, every tensor's place."""
    if (directory / "adapter_config.json").exists():
        read_adapter(directory)
    else:
        open_checkpoint(directory)


def make_cases(tmp_path: Path, patch: pytest.MonkeyPatch) -> list[Case]:
    """Every command that writes, on the smallest models that it takes."""
    base, tuned, adapter = files.noisy_pair(tmp_path)["paths"]
    patch.setattr(exact_models, "SHAPES", _SMALL)
    merged = exact_models.merge(tmp_path / "merged", rank=2)
    other = transfer_files.moved(base, tmp_path / "other", change=0.01)
    pair, resume, out = [base, tuned], ["--resume"], tmp_path / "out"
    bare = ["--no-report", "--rank"]
    return [
        Case("extract", ["extract", *pair, "--rank", "2"], out / "plain", resume),
        Case("auto", ["extract", *pair, *bare, "auto", "--max-rank", "4"], out / "auto", resume),
        Case("whole", ["extract", *pair, *bare, "2", "--save-whole", "all"], out / "whole", resume),
        Case(
            "exact",
            ["extract", merged.base, merged.tuned, *bare, "auto", "--exact", "--patch"],
            out / "exact",
            resume,
        ),
        Case(
            "extract over an old one",
            ["extract", *pair, *bare, "2"],
            out / "again",
            ["--resume", "--force"],
            old={},
        ),
        Case("merge", ["merge", base, adapter], out / "merge", ["--force"]),
        Case("merge shards", ["merge", tuned, adapter], out / "shards", ["--force"], old={}),
        Case(
            "transfer",
            ["transfer", adapter, "--source", base, "--target", other, "--method", "copy"],
            out / "transfer",
            ["--force"],
        ),
    ]


def give_old(cases: Iterable[Case], server: FaultServer) -> None:
    """Let an earlier result lie where a case replaces one."""
    for case in cases:
        if case.old is None:
            continue
        earlier = [*case.arguments]
        if earlier[0] == "extract":
            earlier[earlier.index("--rank") + 1] = "3"
        else:
            earlier += ["--dtype", "fp32"]
        case.out.parent.mkdir(exist_ok=True)
        run = server.run([*earlier, "-o", case.out])
        assert run.code == 0, run.error
        case.old = contents(case.out)

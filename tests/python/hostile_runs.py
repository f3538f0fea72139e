"""Command lines on files of strangers, in processes that are watched, and what they must answer."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

_WORKER: Final = Path(__file__).with_name("hostile_worker.py")
#: Seconds for one command line, on a machine that does other things too.
PATIENCE: Final = 60.0
_ERROR: Final = "loragraft: error: "


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a command line; a negative code is the signal that ended the process."""

    code: int
    out: str
    err: str
    seconds: float
    kilobytes: int = 0

    def faults(self, codes: Sequence[int], says: str = "") -> list[str]:
        """What is wrong with it: nothing, for an answer as promised."""
        lines = self.err.splitlines()
        found = []
        if self.code < 0:
            found.append(f"ended by signal {-self.code} after {self.seconds:.1f} s")
        if self.code not in codes:
            found.append(f"exit code {self.code}, expected {' or '.join(map(str, codes))}")
        if self.code and (len(lines) != 1 or not self.err.startswith(_ERROR)):
            found.append(f"{len(lines)} lines on stderr, expected one")
        if self.code and says not in self.err:
            found.append(f"does not say {says!r}")
        if "Traceback" in self.err or "internal error" in self.err:
            found.append("a traceback or an internal error")
        if not all(line.isprintable() for line in lines):
            found.append("characters that act on a terminal")
        if len(self.err) > 3000:
            found.append(f"{len(self.err)} characters on stderr")
        return [f"{fault}: {self.err[:300]!r}" for fault in found]


class Runner:
    """Runs command lines in one process, and in another after one that crashed or hung."""

    def __init__(self, directory: Path) -> None:
        """Take a directory for what the process prints."""
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._answers = -1
        self.most_kilobytes = 0

    def run(self, arguments: Sequence[str]) -> Outcome:
        """Run a command line."""
        if self._process is None:
            self._start()
        assert self._process is not None
        assert self._process.stdin is not None
        started = time.perf_counter()
        self._process.stdin.write(json.dumps(list(arguments)).encode() + b"\n")
        self._process.stdin.flush()
        answer = self._line(started)
        seconds = time.perf_counter() - started
        if answer:
            outcome = Outcome(**json.loads(answer))
            self.most_kilobytes = max(self.most_kilobytes, outcome.kilobytes)
            return outcome
        return Outcome(self.close(), "", self._said(), seconds)

    def close(self) -> int:
        """End the process and return how it ended."""
        if self._process is None:
            return 0
        process, self._process = self._process, None
        assert process.stdin is not None
        process.stdin.close()
        try:
            code = process.wait(2)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        os.close(self._answers)
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        self._answers, write = os.pipe()
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self._process = subprocess.Popen(
            [sys.executable, str(_WORKER), str(write), str(self._directory)],
            stdin=subprocess.PIPE,
            pass_fds=(write,),
            env=environment,
            cwd=self._directory,
        )
        os.close(write)

    def _line(self, started: float) -> bytes:
        """The next answer; nothing where the process ended or took too long."""
        data = b""
        while not data.endswith(b"\n"):
            left = PATIENCE - (time.perf_counter() - started)
            ready, _, _ = select.select([self._answers], [], [], max(0.0, left))
            part = os.read(self._answers, 1 << 20) if ready else b""
            if not part:
                return b""
            data += part
        return data

    def _said(self) -> str:
        return (self._directory / "stderr").read_text("utf-8", "replace")[-2000:]

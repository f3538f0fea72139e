"""Runs commands in forked copies of one process, and lets a chosen system call fail in them.

As a program it reads a line of JSON for every run and answers with one; `FaultServer` is the other
end. A process of its own, for a test's may have threads, with which it cannot be forked safely.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self

#: The calls that are counted and can fail; of ``open`` those that write.
CALLS = ("open", "write", "pwrite", "posix_fallocate", "fsync", "link", "replace", "unlink")
WRITES = frozenset({"write", "pwrite"})
_WRITING = os.O_WRONLY | os.O_RDWR
_SECONDS = 60
_CHILD = {signal.SIGCHLD}


class Run(NamedTuple):
    """How a run ended.

    Attributes:
        code: Exit code; minus the signal that killed it.
        error: What it said on stderr.
        calls: Names of the calls it made, in order; empty where it was killed.
        struck: The call that failed; empty where none did.
    """

    code: int
    error: str
    calls: list[str]
    struck: str


class FaultServer:
    """The process that runs commands.

    Used as a context manager; `run` may be called any number of times.
    """

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "LORAGRAFT_CACHE": "off", "NO_COLOR": "1"},
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def run(
        self,
        arguments: Sequence[object],
        kind: str = "none",
        at: int = -1,
        number: int = errno.EIO,
        seconds: float = 0.0,
    ) -> Run:
        """Run a command line.

        Args:
            arguments: As after the program's name.
            kind: What befalls a call: ``error``, ``kill``, ``stop`` (Ctrl-C), ``interrupt``
                (EINTR at each first try of every call), ``short`` (every write), or ``none``.
            at: Which call, from 0.
            number: The error.
            seconds: Kill it after so many seconds.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        job = {
            "arguments": [str(argument) for argument in arguments],
            "kind": kind,
            "at": at,
            "number": number,
            "seconds": seconds,
        }
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return Run(**json.loads(self._process.stdout.readline()))


class Faults:
    """Counts system calls and lets one fail."""

    def __init__(self, kind: str, at: int, number: int) -> None:
        self.kind, self.at, self.number = kind, at, number
        self.calls: list[str] = []
        self.struck = ""
        self._again = False

    def install(self) -> None:
        for name in CALLS:
            setattr(os, name, self._wrapped(name, getattr(os, name)))

    def _wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **options: Any) -> Any:
            if name == "open" and not arguments[1] & _WRITING:
                return call(*arguments, **options)
            if self.kind == "interrupt":
                self._again = not self._again
                if self._again:
                    raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))
            if self.kind == "short" and name in WRITES and len(arguments[1]) > 1:
                arguments = (arguments[0], arguments[1][: len(arguments[1]) // 2], *arguments[2:])
            self.calls.append(name)
            if len(self.calls) - 1 == self.at:
                self._strike(name, call, arguments)
            return call(*arguments, **options)

        return wrapper

    def _strike(self, name: str, call: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.struck = name
        if name in WRITES and self.kind in {"error", "kill"}:
            # What has been written by then stays.
            call(arguments[0], arguments[1][: len(arguments[1]) // 2], *arguments[2:])
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.kind == "stop":
            signal.raise_signal(signal.SIGINT)
        elif self.kind == "error":
            raise OSError(self.number, os.strerror(self.number))


def _child(job: dict[str, Any], error: int, answer: int) -> None:
    from loragraft.cli.application import run

    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(error, 2)
    signal.alarm(_SECONDS)
    faults = Faults(job["kind"], job["at"], job["number"])
    write = os.write
    faults.install()
    code = run(job["arguments"])
    sys.stderr.flush()
    write(answer, json.dumps({"calls": faults.calls, "struck": faults.struck}).encode())
    os._exit(code)


def _answer(job: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryFile() as error, tempfile.TemporaryFile() as answer:
        while signal.sigtimedwait(_CHILD, 0) is not None:
            # Of an earlier run.
            pass
        child = os.fork()
        if not child:
            try:
                _child(job, error.fileno(), answer.fileno())
            finally:
                os._exit(99)
        if job["seconds"] and signal.sigtimedwait(_CHILD, job["seconds"]) is None:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        error.seek(0)
        answer.seek(0)
        told = json.loads(answer.read() or b'{"calls": [], "struck": ""}')
        code = os.waitstatus_to_exitcode(status)
        return {"code": code, "error": error.read().decode(), **told}


def _serve() -> None:
    # Whoever runs the tests in the background has Ctrl-C ignored, which children inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_BLOCK, _CHILD)
    answers = os.fdopen(os.dup(1), "w")
    warm: set[str] = set()
    for line in sys.stdin:
        job = json.loads(line)
        command = job["arguments"][0]
        if command not in warm:
            # What a command loads is then there in every copy.
            warm.add(command)
            _load(job["arguments"])
        print(json.dumps(_answer(job)), file=answers, flush=True)


def _load(arguments: list[str]) -> None:
    """Run a command to another place, for what it imports."""
    from loragraft.cli.application import run

    with tempfile.TemporaryDirectory() as directory, Path(os.devnull).open("w") as null:
        where = arguments.index("-o") + 1
        elsewhere = [*arguments[:where], str(Path(directory) / "out"), *arguments[where + 1 :]]
        with contextlib.redirect_stdout(null), contextlib.redirect_stderr(null):
            run(elsewhere)


if __name__ == "__main__":
    _serve()

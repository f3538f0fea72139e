"""Runs command lines of loragraft one after the other, each under limits; a process of its own.

Reads a JSON list of arguments from each line of stdin, and answers with what came of it in a line
of JSON on the file descriptor that is its first argument. The second is where output goes.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path

#: Address space, most of which is never touched: NumPy's BLAS alone asks for a gigabyte.
MEMORY = 6 << 30
#: Seconds of processor time for one command line.
PROCESSOR = 30


def _rest_of(path: Path, start: int) -> str:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(1 << 20).decode("utf-8", "replace")


def _used() -> float:
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime


def main(answers: int, directory: Path) -> None:
    out, err = directory / "stdout", directory / "stderr"
    for path, number in ((out, 1), (err, 2)):
        file = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from loragraft.cli.application import run

    for line in sys.stdin:
        starts = out.stat().st_size, err.stat().st_size
        used = _used()
        resource.setrlimit(resource.RLIMIT_CPU, (int(used) + PROCESSOR, resource.RLIM_INFINITY))
        started = time.perf_counter()
        code = run(json.loads(line))
        answer = {
            "code": code,
            "out": _rest_of(out, starts[0]),
            "err": _rest_of(err, starts[1]),
            "seconds": time.perf_counter() - started,
            "kilobytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        }
        os.write(answers, json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))

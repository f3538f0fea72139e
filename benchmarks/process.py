"""A whole process: how long it takes and how much memory it needs."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_INTERVAL: Final = 0.02
_BLOCK: Final = 512
_KIB: Final = 1024
_MEMORY_FIELDS: Final = ("RssAnon:", "RssShmem:")


@dataclass(frozen=True, slots=True)
class Usage:
    """What one run of a process took.

    Attributes:
        wall: Seconds from start to end.
        cpu: User and system seconds, with children that ended.
        anonymous: Largest anonymous memory of the process and its children seen in samples
            20 ms apart, in bytes. Pages of mapped files do not count.
        disk_read: Bytes that came from the disk and not from the page cache.
        others: CPU seconds that the rest of the machine used meanwhile, this sampler included.
    """

    wall: float
    cpu: float
    anonymous: int
    disk_read: int
    others: float


class ProcessFailedError(RuntimeError):
    """A measured process ended with an error."""


def last_line(error: ProcessFailedError) -> str:
    """Return what the process said last."""
    return str(error).strip().splitlines()[-1]


def run(command: Sequence[str], environment: Mapping[str, str]) -> Usage:
    """Run a command to its end and measure it.

    Raises:
        ProcessFailedError: It did not exit with 0; the message ends with what it printed.
    """
    busy, start = _busy_seconds(), time.perf_counter()
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        sampler = _Sampler(process.pid)
        sampler.start()
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        sampler.stop()
    if process.returncode != 0:
        raise ProcessFailedError(f"{command[:4]} exited with {process.returncode}:\n{printed}")
    cpu = usage.ru_utime + usage.ru_stime
    others = max(_busy_seconds() - busy - cpu, 0.0)
    return Usage(wall, cpu, sampler.peak, usage.ru_inblock * _BLOCK, others)


class _Sampler(threading.Thread):
    """Watches the anonymous memory of a process and its descendants."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self._pid = pid
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.is_set():
            self.peak = max(self.peak, _anonymous_of_tree(self._pid))
            self._done.wait(_INTERVAL)

    def stop(self) -> None:
        self._done.set()
        self.join()


def _anonymous_of_tree(pid: int) -> int:
    total = 0
    waiting = [str(pid)]
    while waiting:
        process = Path("/proc", waiting.pop())
        try:
            total += _anonymous(process)
            for thread in (process / "task").iterdir():
                waiting += (thread / "children").read_text().split()
        except OSError:  # it has ended meanwhile
            continue
    return total


def _anonymous(process: Path) -> int:
    lines = (process / "status").read_text().splitlines()
    return sum(int(line.split()[1]) * _KIB for line in lines if line.startswith(_MEMORY_FIELDS))


def _busy_seconds() -> float:
    """Return the CPU seconds of the whole machine since it started, idle time left out."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    user, nice, system, _idle, _waiting, interrupts, soft, stolen = map(int, fields)
    ticks = user + nice + system + interrupts + soft + stolen
    return ticks / os.sysconf("SC_CLK_TCK")

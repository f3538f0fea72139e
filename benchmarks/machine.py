"""Where and with what the figures were measured."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Final

import markdown
from contenders import THREADS
from loragraft import native

if TYPE_CHECKING:
    from collections.abc import Iterator

_PACKAGES: Final = ("loragraft", "numpy", "torch", "safetensors", "scikit-learn")
_VARIABLES: Final = ("OPENBLAS_CORETYPE", "LORAGRAFT_ISA")
_GIB: Final = 2**30
#: Above this load per core at the start, times are not to be trusted.
_QUIET: Final = 0.25


@dataclass(frozen=True, slots=True)
class Machine:
    """The state of the machine when the benchmark began.

    Attributes:
        processor: Model name.
        cores: Number that this process may use.
        memory: Bytes in all.
        isa: Instruction set of loragraft's kernels.
        blas: loragraft's BLAS.
        torch_blas: What torch says of its CPU capability.
        environment: Variables that choose code paths, None where unset.
        threads: Given to every contender.
        versions: Of Python and the packages.
        load: Average number of runnable processes over the last 1, 5 and 15 minutes.
    """

    processor: str
    cores: int
    memory: int
    isa: str
    blas: str
    torch_blas: str
    environment: dict[str, str | None]
    threads: int
    versions: dict[str, str]
    load: tuple[float, float, float]

    @property
    def busy(self) -> bool:
        """Whether something else was running at the start."""
        return self.load[0] > _QUIET * self.cores

    def table(self) -> str:
        """Return the description in Markdown."""
        return markdown.table(["", ""], self._rows())

    def _rows(self) -> Iterator[list[str]]:
        yield ["Processor", f"{self.processor}, {self.cores} cores, {self.memory / _GIB:.0f} GiB"]
        yield ["loragraft's kernels", self.isa]
        yield ["loragraft's BLAS", self.blas]
        yield ["torch's CPU capability", self.torch_blas]
        for name, value in self.environment.items():
            yield [name, value or "unset"]
        yield ["Threads of every contender", str(self.threads)]
        yield ["Versions", ", ".join(f"{name} {number}" for name, number in self.versions.items())]
        note = "busy: times are provisional" if self.busy else "quiet"
        load = ", ".join(f"{value:.2f}" for value in self.load)
        yield ["Load average at the start", f"{load} ({note})"]


def this_machine() -> Machine:
    """Describe the machine as it is now."""
    import torch

    return Machine(
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)),
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        isa=native.isa(),
        blas=native.blas_description(),
        torch_blas=torch.backends.cpu.get_cpu_capability(),
        environment={name: os.environ.get(name) for name in _VARIABLES},
        threads=THREADS,
        versions={"Python": platform.python_version()}
        | {name: _version(name) for name in _PACKAGES},
        load=os.getloadavg(),
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"

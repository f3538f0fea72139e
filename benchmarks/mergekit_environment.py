"""mergekit's own virtual environment, for its pins are not ours; made once and kept."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from contenders import Contender, script

if TYPE_CHECKING:
    from collections.abc import Callable

_REQUIREMENTS: Final = Path(__file__).with_name("mergekit_requirements.txt")
_DIRECTORY: Final = "venv-mergekit"
_READY: Final = ".ready"
_PIP: Final = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
#: Where there is no network, that should be known soon.
_NETWORK: Final = ("--retries", "1")
_PATIENCE: Final = 900.0


class UnavailableError(RuntimeError):
    """A program to compare with could not be had; the message says why."""


def mergekit(out: Path, say: Callable[[str], None]) -> Contender:
    """Return mergekit-extract-lora as a contender, installing it when it is not there yet.

    Args:
        out: Where the environment is kept.
        say: Told what is going on.

    Raises:
        UnavailableError: It could not be installed.
    """
    directory = out / _DIRECTORY
    wanted = _REQUIREMENTS.read_text()
    ready = directory / _READY
    if not ready.exists() or ready.read_text() != wanted:
        say("inputs: an environment for mergekit")
        shutil.rmtree(directory, ignore_errors=True)
        _install(directory)
        ready.write_text(wanted)
    python = str(directory / "bin" / "python")
    found = script(_requirement("mergekit"), "mergekit_extract.py", python)
    return replace(found, environment=(("HF_HUB_OFFLINE", "1"),))


def _install(directory: Path) -> None:
    _call([sys.executable, "-m", "venv", str(directory)])
    python = str(directory / "bin" / "python")
    # torch first and alone: nothing that wants it can then choose another build.
    torch = _requirement("torch").replace(" ", "==")
    _call([python, *_PIP, *_NETWORK, torch])
    _call([python, *_PIP, *_NETWORK, "-r", str(_REQUIREMENTS)])


def _requirement(package: str) -> str:
    """Return ``package version`` as required."""
    for line in _REQUIREMENTS.read_text().splitlines():
        if line.startswith(f"{package}=="):
            return line.replace("==", " ")
    raise ValueError(f"{_REQUIREMENTS.name} does not name {package}")


def _call(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_PATIENCE)
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout or "no message").strip().splitlines()
        raise UnavailableError(f"could not be installed: {said[-1]}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"could not be installed: {error}") from error

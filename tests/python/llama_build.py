"""A llama.cpp of one's own: built from a package's sources once, and kept.

It lies in ``.venv-llama`` of the checkout, or where ``LORAGRAFT_LLAMA_CPP`` says. The build takes
ten minutes or more on two cores.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tarfile
import venv
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

VERSION: Final = "0.3.36"
_PACKAGE: Final = f"llama-cpp-python=={VERSION}"
_HERE: Final = Path(__file__).parent
_PLACE: Final = Path(
    os.environ.get("LORAGRAFT_LLAMA_CPP", _HERE.parents[1] / ".venv-llama")
).resolve()


@functools.cache
def environment() -> tuple[Path, Path]:
    """Return the Python that has llama.cpp, and the directory of its sources."""
    python = _PLACE / "bin" / "python"
    sources = _PLACE / "sources" / f"llama_cpp_python-{VERSION}" / "vendor" / "llama.cpp"
    done = _PLACE / f".built-{VERSION}"
    if not done.exists():
        venv.create(_PLACE, with_pip=True)
        _run(python, "-m", "pip", "install", "-q", "numpy", _PACKAGE)
        downloads = _PLACE / "downloads"
        _run(python, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:",
             "-d", downloads, _PACKAGE)  # fmt: skip
        with tarfile.open(next(downloads.glob("llama_cpp_python-*.tar.gz"))) as archive:
            archive.extractall(_PLACE / "sources", filter="data")
        done.touch()
    return python, sources


def convert(model: Path, out: Path, kind: str = "f32", *, fused: bool = False) -> Path:
    """Make a GGUF of a model with llama.cpp's own converter."""
    _, sources = environment()
    rest = ["--fused"] if fused else []
    _run(sys.executable, _HERE / "llama_converter.py", sources, model, out, kind, *rest)
    return out


def logits(
    model: Path, adapters: Mapping[str, Path], tokens: Sequence[int], work: Path
) -> dict[str, np.ndarray[Any, Any]]:
    """Return llama.cpp's logits of a model, ``base``, and with each adapter that it loads."""
    python, _ = environment()
    job = {
        "model": str(model),
        "adapters": {name: str(path) for name, path in adapters.items()},
        "tokens": list(tokens),
        "out": str(work / "logits.npz"),
    }
    (work / "job.json").write_text(json.dumps(job), encoding="utf-8")
    _run(python, _HERE / "llama_worker.py", work / "job.json")
    with np.load(work / "logits.npz") as found:
        return dict(found)


def crashes(model: Path, adapter: Path, tokens: Sequence[int], work: Path) -> bool:
    """Say whether a signal ends llama.cpp on a model with an adapter."""
    try:
        logits(model, {"adapter": adapter}, tokens, work)
    except subprocess.CalledProcessError as error:
        return error.returncode < 0
    return False


def _run(*command: object) -> None:
    done = subprocess.run(
        [str(word) for word in command], check=False, capture_output=True, text=True
    )
    if done.returncode:
        sys.stderr.write(done.stdout[-2000:] + done.stderr[-4000:])
        done.check_returncode()

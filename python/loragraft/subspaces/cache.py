"""Subspaces kept on disk under the content they were computed from.

A file is its own digest and raw numbers. One that is damaged, of another version or cut short is
computed again; nothing in it is ever executed or trusted.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Final

import numpy as np

from loragraft import system_calls
from loragraft.atomic_file import AtomicFile
from loragraft.errors import FormatError
from loragraft.subspaces.subspace import Subspace
from loragraft.wording import reason

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Names the directory to use, or ``off``.
VARIABLE: Final = "LORAGRAFT_CACHE"
_OFF: Final = frozenset({"off", "0", "no", "false", "none"})
_HEADER: Final = struct.Struct("<8sqqqd")
_MAGIC: Final = b"lgsubsp1"
_DIGEST: Final = 32
_SUFFIX: Final = ".subspace"
#: The cache is cut to so many bytes at the end of a run, the files least recently used first.
_MOST_BYTES: Final = 8 << 30


def cache_directory() -> Path | None:
    """Return where subspaces are kept, None where that is turned off or there is no such place.

    That is ``$LORAGRAFT_CACHE``, else ``$XDG_CACHE_HOME/loragraft``, else ``~/.cache/loragraft``.
    """
    chosen = os.environ.get(VARIABLE, "")
    if chosen.lower() in _OFF and chosen:
        return None
    if chosen:
        return Path(chosen)
    home = os.environ.get("XDG_CACHE_HOME", "")
    # The specification has relative paths ignored.
    if not home.startswith("/"):
        try:
            home = str(Path.home() / ".cache")
        except RuntimeError:
            return None
    return Path(home) / "loragraft"


class SubspaceCache:
    """A directory of subspaces; whatever goes wrong with it costs time and nothing else.

    Attributes:
        directory: The directory; None keeps nothing.
        hits: Subspaces found.
        failure: Why the last one could not be kept; empty where all could.
    """

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory
        self.hits = 0
        self.failure = ""
        self._lock = Lock()

    def load(self, key: str) -> Subspace | None:
        """Return what is kept under a key, None where that is nothing, or nothing whole."""
        if self.directory is None:
            return None
        path = self._path(self.directory, key)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        found = _decoded(data)
        if found is not None:
            with self._lock:
                self.hits += 1
            with contextlib.suppress(OSError):
                system_calls.mark_used(path)
        return found

    def store(self, key: str, subspace: Subspace) -> None:
        """Keep a subspace under a key."""
        if self.directory is None:
            return
        path = self._path(self.directory, key)
        try:
            system_calls.make_directories(path.parent)
            # A file that a crash has cut short does not bear its own digest.
            with AtomicFile(path, lasting=False) as file:
                file.write(_encoded(subspace), 0)
        except OSError as error:
            self.failure = reason(error)
        except FormatError as error:
            self.failure = reason(error.__cause__ or error)

    def trim(self, most: int = _MOST_BYTES) -> None:
        """Remove the files least recently used until at most so many bytes are left."""
        if self.directory is None:
            return
        with contextlib.suppress(OSError):
            found = []
            for path in self.directory.glob(f"*/*{_SUFFIX}"):
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, path))
            excess = sum(size for _, size, _ in found) - most
            for _, size, path in sorted(found):
                if excess <= 0:
                    break
                system_calls.remove(path)
                excess -= size

    @staticmethod
    def _path(directory: Path, key: str) -> Path:
        return directory / key[:2] / f"{key}{_SUFFIX}"


def _encoded(subspace: Subspace) -> bytes:
    m, k = subspace.U.shape
    header = _HEADER.pack(_MAGIC, m, subspace.V.shape[0], k, subspace.norm)
    arrays = (subspace.U, subspace.s, subspace.V)
    body = header + b"".join(np.ascontiguousarray(array, "<f4").tobytes() for array in arrays)
    return hashlib.sha256(body).digest() + body


def _decoded(data: bytes) -> Subspace | None:
    body = memoryview(data)[_DIGEST:]
    if len(body) < _HEADER.size or hashlib.sha256(body).digest() != data[:_DIGEST]:
        return None
    magic, m, n, k, norm = _HEADER.unpack_from(body)
    if magic != _MAGIC or len(body) != _HEADER.size + 4 * k * (m + n + 1):
        return None
    values: NDArray[np.float32] = np.frombuffer(body, "<f4", offset=_HEADER.size)
    left, s, right = np.split(values, (m * k, m * k + k))
    return Subspace(left.reshape(m, k), s, right.reshape(n, k), norm)

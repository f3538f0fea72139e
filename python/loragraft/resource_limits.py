"""What the system allows a process, asked before the work that would go beyond it."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Final

from loragraft.errors import FormatError
from loragraft.wording import size

#: Address space that the libraries take, and every thread: its stack, its heap and BLAS's buffers.
_SPACE: Final = 256 << 20
_SPACE_PER_THREAD: Final = 176 << 20
#: Below this not even the libraries can be loaded.
_LEAST: Final = 224 << 20
#: Files that are open beside the checkpoints'.
_OTHER_FILES: Final = 24


def address_space() -> int | None:
    """Return the bytes that the process may still map, None where nothing limits it."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return limit
    return max(0, limit - pages * resource.getpagesize())


def check_address_space(threads: int, more: int = 0) -> None:
    """Refuse work under a limit on address space that will not do.

    The library that multiplies matrices ends the process where it gets no memory, so this must be
    known before.

    Args:
        threads: That will compute.
        more: Bytes that they will work in.

    Raises:
        FormatError: The limit is too low.
    """
    free = address_space()
    needed = _SPACE + threads * _SPACE_PER_THREAD + more
    if free is not None and needed > free:
        raise FormatError(
            f"not enough memory: about {size(needed)} of address space are needed, and the limit"
            f" leaves {size(free)}: raise it (ulimit -v) or use fewer --threads"
        )


def check_start() -> None:
    """Refuse to begin where even the libraries find no room.

    Raises:
        FormatError: So it is.
    """
    free = address_space()
    if free is not None and free < _LEAST:
        raise FormatError(
            f"not enough memory: the limit on address space leaves {size(free)}: raise it (ulimit"
            " -v)"
        )


def check_open_files(count: int) -> None:
    """Have the process allowed to open so many more files, as far as it may allow that itself.

    Raises:
        FormatError: It may not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return
    needed = _open_now() + count + _OTHER_FILES
    if needed <= soft:
        return
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise FormatError(
            f"about {needed} files must be open at once, and the limit is {hard}: raise it"
            " (ulimit -n), or store the checkpoints in fewer files"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _open_now() -> int:
    try:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())
    except OSError:
        return 0

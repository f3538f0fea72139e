"""The page cache: put files into it, take them out, see what of them is there."""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_BLOCK: Final = 2**24
_FAILED: Final = ctypes.c_void_p(-1).value


def warm(files: Iterable[Path]) -> None:
    """Read files once, so that they lie in the page cache."""
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.read(_BLOCK):
                pass


def drop(files: Iterable[Path]) -> None:
    """Ask the kernel to forget what it holds of files, after writing out what is not on disk."""
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def resident(files: Iterable[Path]) -> float:
    """Return the share of files that lies in the page cache, as mincore(2) tells."""
    pages = [_resident_pages(path) for path in files]
    return sum(there for there, _ in pages) / sum(of for _, of in pages)


def _resident_pages(path: Path) -> tuple[int, int]:
    size = path.stat().st_size
    count = -(-size // mmap.PAGESIZE)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    with path.open("rb") as file:
        address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
    if address == _FAILED:
        raise OSError(ctypes.get_errno(), "mmap failed", str(path))
    flags = ctypes.create_string_buffer(count)
    try:
        if libc.mincore(address, size, flags) != 0:
            raise OSError(ctypes.get_errno(), "mincore failed", str(path))
    finally:
        libc.munmap(address, size)
    return sum(flag & 1 for flag in flags.raw), count

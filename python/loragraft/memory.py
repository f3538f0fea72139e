"""How much memory there is to be had."""

from __future__ import annotations

from pathlib import Path


def available_memory() -> int | None:
    """Return the bytes that can be had without swapping, None where the system does not tell."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return None
    return None

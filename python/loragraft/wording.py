"""Pieces of error messages: one line each, and safe to print whatever a file contains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

_LONGEST: Final = 200
_MOST_SHAPES: Final = 3


def quoted(value: object) -> str:
    """Return `value` as a quoted literal of one line, shortened when it is very long.

    Control characters, escape codes and lone surrogates come out escaped, so that a name out of a
    hostile file cannot write to the terminal.
    """
    if isinstance(value, str | bytes) and len(value) > _LONGEST:
        return f"{value[:_LONGEST]!r}... ({len(value)} long)"
    text = repr(value)
    if len(text) > 2 * _LONGEST:
        return f"{text[:_LONGEST]}... ({len(text)} long)"
    return text


def printable(text: str) -> str:
    """Return a text with everything escaped that could act on a terminal, line ends too."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def shown(path: str | os.PathLike[str]) -> str:
    """Return a path as people write it, or quoted when it holds unprintable characters."""
    text = str(path)
    return text if text.isprintable() else repr(text)


def size(count: float) -> str:
    """Return a number of bytes with the unit that suits it, such as ``1.23 GB``."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.2f} {unit}"
    return f"{count:.0f} bytes"


def counted(count: int, noun: str) -> str:
    """Return a count with its noun, in the plural where that is right."""
    if count == 1:
        return f"1 {noun}"
    if noun.endswith("ry"):
        return f"{count} {noun[:-1]}ies"
    return f"{count} {noun}es" if noun.endswith("s") else f"{count} {noun}s"


def percent(share: float) -> str:
    """Return a share in percent, never rounded up to all."""
    for digits in (2, 4, 6):
        text = f"{100.0 * share:.{digits}f}%"
        if share >= 1.0 or not text.startswith("100"):
            return text
    return "almost 100%"


def shapes(found: Sequence[tuple[int, int]]) -> str:
    """Return the first few of several shapes."""
    text = ", ".join(f"{rows} × {columns}" for rows, columns in found[:_MOST_SHAPES])
    return f"{text} …" if len(found) > _MOST_SHAPES else text


def listed(words: Sequence[str]) -> str:
    """Return words as a sentence lists them: ``a, b and c``."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def span(low: int, high: int) -> str:
    """Return a range, or the one number that it is."""
    return str(low) if low == high else f"{low}–{high}"


def reason(error: BaseException) -> str:
    """Return why an operation failed, as one printable line.

    System errors give the system's words ("No space left on device"), others their class and text.
    """
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror
    else:
        text = f"{type(error).__name__}: {error}"
    text = " ".join(text.split())
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= 2 * _LONGEST else text[: 2 * _LONGEST] + "..."

"""What was written for an option, made the value that the library takes."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from loragraft.errors import MissingDependencyError, UsageError
from loragraft.wording import quoted

_TRUTH: Final = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}


def given_side(name: str, positional: str | None, option: str, by_option: str | None) -> str:
    """Return one checkpoint, however it was given.

    Args:
        name: ``BASE`` or ``TUNED``.
        positional: What stands in its place on the command line.
        option: The option that may be used instead.
        by_option: That option's value.

    Raises:
        UsageError: It was given in both ways, or in none.
    """
    if positional is not None and by_option is not None:
        raise UsageError(
            f"{name} is given twice, as {quoted(positional)} and as {option} {quoted(by_option)};"
            " keep one of the two"
        )
    side = positional if by_option is None else by_option
    if not side:
        raise UsageError(f"{name} is missing: give it as an argument or with {option}")
    return side


def named_output(text: str | None) -> Path:
    """Return where the result goes; an empty text is no place, though to a path it is ``.``.

    Raises:
        UsageError: No place was named.
    """
    if not text:
        raise UsageError("-o OUT is missing: name the directory to write to")
    return Path(text)


def require_cpu(device: str) -> None:
    """Refuse devices that this version cannot compute on.

    Raises:
        MissingDependencyError: A CUDA device.
        UsageError: No device at all.
    """
    if device == "cuda" or device.startswith("cuda:"):
        raise MissingDependencyError(
            f"--device {device}: this version computes on the CPU only; use --device cpu"
        )
    if device != "cpu":
        raise UsageError(f"--device {quoted(device)}: expected cpu")


def truth(option: str, text: str) -> bool:
    """Read True or False.

    Raises:
        UsageError: It is neither.
    """
    value = _TRUTH.get(text.strip().lower())
    if value is None:
        raise UsageError(f"{option} {quoted(text)}: expected True or False")
    return value


def iterations(text: str) -> int | None:
    """Read a number of power iterations, None for ``auto``.

    Raises:
        UsageError: It is neither.
    """
    if text.strip().lower() == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"--power-iterations {quoted(text)}: expected auto or 0..100") from None

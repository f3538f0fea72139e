"""JSON objects out of files that are not trusted."""

from __future__ import annotations

import json
from typing import Any

from loragraft.errors import FormatError
from loragraft.wording import quoted


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {quoted(key)} appears twice in one object")
            seen.add(key)
    return found


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON value")


def _parse_int(digits: str) -> int:
    if digits == "-0":
        raise ValueError("-0 is no integer")
    return int(digits)


def parse_object(data: bytes, where: str, *, strict: bool = True) -> dict[str, Any]:
    """Parse a JSON object.

    Args:
        data: The text, UTF-8.
        where: File and part, for messages.
        strict: Refuse what readers disagree on: keys that appear twice, NaN, Infinity and ``-0``.

    Raises:
        FormatError: The text is not UTF-8, not JSON, nested too deeply, or no object.
    """
    try:
        text = data.decode("utf-8")
        if strict:
            # The C scanner is only fast with its own integers, and hardly a file contains "-0".
            parse_int = _parse_int if b"-0" in data else None
            value = json.loads(
                text,
                object_pairs_hook=_unique,
                parse_constant=_refuse_constant,
                parse_int=parse_int,
            )
        else:
            value = json.loads(text)
    except UnicodeDecodeError as error:
        raise FormatError(f"{where}: not UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise FormatError(f"{where}: JSON nested too deeply") from error
    except ValueError as error:
        raise FormatError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise FormatError(f"{where}: expected a JSON object, got {type(value).__name__}")
    return value

"""All cases, of every kind of file. A further kind is a module like the others, entered here."""

from __future__ import annotations

from hostile import adapters, configs, gguf, headers, indexes, numbers, places, quantised
from hostile.case import Case, unique

_KINDS = (headers, indexes, places, configs, adapters, quantised, numbers, gguf)


def all_cases() -> tuple[Case, ...]:
    """Every case, in the same order on any machine."""
    return unique(case for kind in _KINDS for case in kind.cases())

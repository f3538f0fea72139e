"""The ``target_modules`` of an adapter: they name its modules and no other.

PEFT puts an adapter on every module, of whatever class, whose path equals an entry of the list
or ends with a dot and the entry; a string it takes as a regular expression that the whole path
must match. A module that is targeted but not in the file gets an adapter of zeros and a warning
about missing keys, so the entries must fit exactly.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from loragraft.natural_order import natural_key

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

#: The longest list that is written: PEFT tries every entry on every module of the model.
MAX_ENTRIES: Final = 500


def target_modules(
    adapted: Collection[str],
    all_names: Collection[str],
    most: int = MAX_ENTRIES,
    *,
    suffixes: bool = True,
) -> list[str] | str:
    """Return what makes PEFT target exactly the adapted modules.

    Suffixes without a block number where such a suffix covers adapted modules alone, full names
    for the rest; a regular expression where the list would be longer than ``most``, or where a full
    name is itself the end of another module's name.

    Args:
        adapted: Names of the modules in the adapter, at least one.
        all_names: Names of the model's modules that an entry could hit by mistake: every linear
            layer, and any others that are known. The modules that contain them are added here.
        most: The longest list.
        suffixes: Whether suffixes will do; full names are safer where ``all_names`` lacks modules.
    """
    chosen = sorted(set(adapted), key=natural_key)
    known = {*all_names, *chosen}
    others = {container for name in known for container in _containers(name)} | known
    foreign = {suffix for name in others.difference(chosen) for suffix in _suffixes(name)}
    if not suffixes:
        return chosen
    entries = dict.fromkeys(_entry(name, foreign) for name in chosen)
    exact = [entry for entry in entries if entry is not None]
    if len(exact) < len(entries) or len(exact) > most:
        return exact_regex(chosen)
    return exact


def exact_regex(names: Iterable[str]) -> str:
    """Return a compact regular expression that matches these names in full and nothing else."""
    return _pattern([tuple(name.split(".")) for name in names])


def _entry(name: str, foreign: Collection[str]) -> str | None:
    """Return the shortest numberless suffix that hits no other module, or the full name.

    Args:
        name: The module.
        foreign: Every suffix of every module that must not be hit.
    """
    for suffix in _suffixes(name):
        if _is_number(suffix.partition(".")[0]):
            break
        if suffix not in foreign:
            return suffix
    return None if name in foreign else name


def _suffixes(name: str) -> Iterator[str]:
    """Yield the ends of a path at its dots, the shortest first, the path itself last."""
    parts = name.split(".")
    for start in range(len(parts) - 1, -1, -1):
        yield ".".join(parts[start:])


def _containers(name: str) -> Iterator[str]:
    """Yield the paths of the modules that contain a module."""
    parts = name.split(".")
    for stop in range(1, len(parts)):
        yield ".".join(parts[:stop])


def _is_number(part: str) -> bool:
    return part.isascii() and part.isdigit()


def _pattern(paths: Collection[tuple[str, ...]]) -> str:
    """Return the expression for a set of paths; first components with equal rests share one."""
    tails: dict[str, list[tuple[str, ...]]] = {}
    for path in paths:
        tails.setdefault(path[0], []).append(path[1:])
    firsts: dict[str, list[str]] = {}
    for first, found in tails.items():
        longer = [tail for tail in found if tail]
        rest = rf"\.{_pattern(longer)}" if longer else ""
        if rest and len(longer) < len(found):
            rest = f"(?:{rest})?"
        firsts.setdefault(rest, []).append(re.escape(first))
    return _alternatives([_alternatives(words) + rest for rest, words in firsts.items()])


def _alternatives(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"(?:{'|'.join(words)})"

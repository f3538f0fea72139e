"""Names of the same module in different blocks: one row of a map."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def block_path(name: str, layer: int | None, part: str = "") -> str:
    """Return a module's path without its block number, that of a part as if it stood alone.

    Args:
        name: Module path.
        layer: Block number in it, None outside the blocks.
        part: Which rows of a fused module, such as ``q_proj`` of ``qkv_proj``; empty for all.
    """
    path = name
    if part:
        path = f"{path.rpartition('.')[0]}.{part}".removeprefix(".")
    if layer is None:
        return path
    return re.sub(rf"(^|\.){layer}(?=\.)", r"\1*", path, count=1)


def shortest(paths: Iterable[str]) -> tuple[str, ...]:
    """Return the shortest ends of paths, at a dot, that no two share."""
    names = {path: path.rpartition(".")[2] for path in paths}
    while True:
        counts = Counter(names.values())
        longer = {path: _one_more(path, name) for path, name in names.items() if counts[name] > 1}
        if all(names[path] == name for path, name in longer.items()):
            return tuple(names.values())
        names |= longer


def _one_more(path: str, name: str) -> str:
    """Return the end of a path with one more word than another end has."""
    rest = path.removesuffix(name).removesuffix(".")
    return f"{rest.rpartition('.')[2]}.{name}" if rest else name

"""A comparison as a map: a row for each kind of module, a column for each layer."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from loragraft.comparison.report import ComparedModule


class Grid(NamedTuple):
    """The cells of the map.

    Attributes:
        rows: Kinds of modules, as short as they can be told apart, in the order of the model.
        layers: Block numbers in order; -1, the last, for what is outside the blocks.
        cells: (row, column) -> module. Not every layer has every kind.
    """

    rows: tuple[str, ...]
    layers: tuple[int, ...]
    cells: Mapping[tuple[int, int], ComparedModule]

    def heading(self, column: int) -> str:
        """Return the name of a column."""
        layer = self.layers[column]
        return "–" if layer < 0 else str(layer)


def grid_of(modules: Iterable[ComparedModule]) -> Grid:
    """Return the map of the modules of a comparison; each of them is one cell."""
    placed = [(_path(module), -1 if module.layer is None else module.layer, module)
              for module in modules]  # fmt: skip
    layers = sorted({layer for _, layer, _ in placed}, key=lambda layer: (layer < 0, layer))
    paths = list(dict.fromkeys(path for path, _, _ in placed))
    row = {path: place for place, path in enumerate(paths)}
    column = {layer: place for place, layer in enumerate(layers)}
    cells = {(row[path], column[layer]): module for path, layer, module in placed}
    return Grid(_short(paths), tuple(layers), cells)


def _path(module: ComparedModule) -> str:
    """Return a module's path without its block number, that of a part as if it stood alone."""
    path = module.name
    if module.part:
        path = f"{path.rpartition('.')[0]}.{module.part}".removeprefix(".")
    if module.layer is None:
        return path
    return re.sub(rf"(^|\.){module.layer}(?=\.)", r"\1*", path, count=1)


def _short(paths: list[str]) -> tuple[str, ...]:
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

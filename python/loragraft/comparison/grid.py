"""A comparison as a map: a row for each kind of module, a column for each layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from loragraft.report.paths import block_path, shortest

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
    placed = [
        (
            block_path(module.name, module.layer, module.part),
            -1 if module.layer is None else module.layer,
            module,
        )
        for module in modules
    ]
    layers = sorted({layer for _, layer, _ in placed}, key=lambda layer: (layer < 0, layer))
    paths = list(dict.fromkeys(path for path, _, _ in placed))
    row = {path: place for place, path in enumerate(paths)}
    column = {layer: place for place, layer in enumerate(layers)}
    cells = {(row[path], column[layer]): module for path, layer, module in placed}
    return Grid(shortest(paths), tuple(layers), cells)

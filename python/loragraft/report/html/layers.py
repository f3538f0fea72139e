"""Modules by layer and kind: the cells of all heat maps."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Final, NamedTuple

from loragraft.report.html.charts import HeatMap, Scale
from loragraft.report.html.figures import Form, Row, written
from loragraft.report.page import Table
from loragraft.report.paths import block_path, shortest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    #: A figure of a module.
    Figure = Callable[[Row], float | None]

#: The column of what lies outside the blocks.
_OUTSIDE: Final = "–"
#: Numbers of experts within a block.
_NUMBER: Final = re.compile(r"\.\d+(?=\.)")


class Measure(NamedTuple):
    """A figure that modules have.

    Attributes:
        title: What a map of it shows.
        label: The figure and its unit.
        value: The figure of a module; None where it has none.
        form: How it is written.
        scale: How colours stand for it.
        low_is_notable: Whether the least of several is worth telling, or else the largest.
    """

    title: str
    label: str
    value: Figure
    form: Form
    scale: Scale
    low_is_notable: bool = True


class Layers(NamedTuple):
    """The modules of a report by kind and layer; a cell has several where they are experts.

    Attributes:
        rows: Kinds, as short as they can be told apart, in the order of the model.
        columns: Layers in order, the last for what is outside the blocks.
        cells: (row, column) -> modules.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Mapping[tuple[int, int], Sequence[Row]]

    def kind(self, row: int) -> list[Row]:
        """Return the modules of one row."""
        return [one for (place, _), rows in self.cells.items() if place == row for one in rows]

    def heat_map(self, measure: Measure) -> HeatMap | None:
        """Return the map of a figure, its mean where a cell has several modules; None if empty."""
        values: list[list[float | None]] = [[None] * len(self.columns) for _ in self.rows]
        words = [[""] * len(self.columns) for _ in self.rows]
        for (row, column), modules in self.cells.items():
            found = [v for v in map(measure.value, modules) if v is not None]
            where = self._place(row, column)
            if found:
                values[row][column] = math.fsum(found) / len(found)
            words[row][column] = f"{where}: {_words(measure, found, len(modules))}"
        if all(value is None for line in values for value in line):
            return None
        return HeatMap(
            title=measure.title,
            label=measure.label,
            rows=self.rows,
            columns=self.columns,
            values=tuple(map(tuple, values)),
            words=tuple(map(tuple, words)),
            scale=measure.scale,
            form=measure.form,
        )

    def _place(self, row: int, column: int) -> str:
        layer = self.columns[column]
        where = "outside the layers" if layer == _OUTSIDE else f"layer {layer}"
        return f"{self.rows[row]}, {where}"

    def table(self, measures: Sequence[Measure]) -> Table:
        """Return the figures by kind: the mean and the notable end of each measure."""
        headings = ["module", "count"]
        for one in measures:
            headings += [one.label, "lowest" if one.low_is_notable else "largest"]
        rows = []
        for place, name in enumerate(self.rows):
            modules = self.kind(place)
            cells = [name, str(len(modules))]
            for one in measures:
                found = [v for v in map(one.value, modules) if v is not None]
                mean = math.fsum(found) / len(found) if found else None
                cells += [written(mean, one.form), written(_notable(one, found), one.form)]
            rows.append(tuple(cells))
        return Table(tuple(headings), tuple(rows))


def layers_of(modules: Iterable[Row]) -> Layers:
    """Return modules by kind and layer.

    Args:
        modules: Of a report, with ``name`` and ``layer``, those of fused modules with ``part``.
    """
    cells: dict[tuple[str, int], list[Row]] = {}
    for one in modules:
        layer = one.get("layer")
        path = block_path(str(one["name"]), layer, str(one.get("part") or ""))
        key = _NUMBER.sub(".*", path), -1 if layer is None else int(layer)
        cells.setdefault(key, []).append(one)
    numbers = sorted({layer for _, layer in cells}, key=lambda layer: (layer < 0, layer))
    paths = list(dict.fromkeys(path for path, _ in cells))
    row = {path: place for place, path in enumerate(paths)}
    column = {layer: place for place, layer in enumerate(numbers)}
    return Layers(
        shortest(paths),
        tuple(_OUTSIDE if layer < 0 else str(layer) for layer in numbers),
        {(row[path], column[layer]): found for (path, layer), found in cells.items()},
    )


def _notable(measure: Measure, found: Sequence[float]) -> float | None:
    return (min if measure.low_is_notable else max)(found, default=None)


def _words(measure: Measure, found: Sequence[float], modules: int) -> str:
    if not found:
        return "not defined"
    if modules == 1:
        return written(found[0], measure.form)
    mean = written(math.fsum(found) / len(found), measure.form)
    end = written(_notable(measure, found), measure.form)
    return f"mean {mean}, {'lowest' if measure.low_is_notable else 'largest'} {end} of {modules}"

"""A comparison as a picture: maps of layers and kinds of modules, written as SVG."""

from __future__ import annotations

import shlex
from html import escape
from typing import TYPE_CHECKING, Final, NamedTuple

from loragraft.comparison.grid import grid_of
from loragraft.comparison.measures import CHANGE, INPUT, OUTPUT
from loragraft.report.card import public_name, public_sentence

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from loragraft.comparison.grid import Grid
    from loragraft.comparison.measures import Measure
    from loragraft.comparison.report import ComparedModule, ComparisonReport

_MARGIN: Final = 24
_TITLE: Final = 72
_HEADING: Final = 34
_AXIS: Final = 40
_LEGEND: Final = 44
_NOTES: Final = 46
_ROW: Final = 20
#: Width of the cells of one row, as far as their least and largest widths allow.
_CELLS: Final = 640
_NARROWEST: Final = 7
_WIDEST: Final = 32
_LEAST_WIDTH: Final = 620
#: Of a letter and of one in the title, in pixels, rounded up.
_LETTER: Final = 7.5
_WIDE_LETTER: Final = 9.0
_STEPS: Final = 10
#: Width of one of them in the legend.
_SWATCH: Final = 28
#: Weakest and strongest colour on a light and on a dark ground.
_LIGHT: Final = ((0xEE, 0xF2, 0xF6), (0x08, 0x51, 0x9C))
_DARK: Final = ((0x21, 0x28, 0x31), (0x79, 0xC0, 0xFF))
_STYLE: Final = """
  text {{ font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; }}
  .ground {{ fill: #ffffff; }} text {{ fill: #24292f; }} .soft {{ fill: #59636e; font-size: 12px; }}
  .title {{ font-size: 16px; font-weight: 600; }} .heading {{ font-weight: 600; }}
  .code {{ font: 12px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }}
  .lines {{ stroke: #8c959f; stroke-width: 1.5; }} {light}
  @media (prefers-color-scheme: dark) {{
    .ground {{ fill: #0d1117; }} text {{ fill: #e6edf3; }} .soft {{ fill: #9198a1; }}
    .lines {{ stroke: #6e7681; }} {dark}
  }}
"""


def draw(report: ComparisonReport) -> str:
    """Return ``compare.svg``: similarity on both sides and weight change, a cell for each module.

    It needs nothing besides itself, follows the reader's light or dark scheme, and tells the
    figures of a cell as its title. Local paths are shortened.
    """
    return "\n".join(_Picture(report, grid_of(report.modules)).lines()) + "\n"


class _Picture(NamedTuple):
    report: ComparisonReport
    grid: Grid

    @property
    def left(self) -> float:
        """Where the cells begin."""
        return _MARGIN + _LETTER * max(map(len, self.grid.rows)) + 12

    @property
    def cell(self) -> float:
        """Width of a cell."""
        return min(_WIDEST, max(_NARROWEST, _CELLS // len(self.grid.layers)))

    @property
    def panel(self) -> float:
        """Height of one map with all that belongs to it."""
        return _HEADING + len(self.grid.rows) * _ROW + _AXIS + _LEGEND

    def lines(self) -> Iterator[str]:
        """Yield the document."""
        command = _command(self.report.inputs)
        names = [public_name(self.report.inputs[side]) for side in ("a", "b")]
        title = f"{names[0]} (A) and {names[1]} (B), layer by layer"
        needed = (
            self.left + len(self.grid.layers) * self.cell,
            _MARGIN + _LETTER * len(command),
            _MARGIN + _WIDE_LETTER * len(title),
        )
        width, height = max(_LEAST_WIDTH, *needed) + _MARGIN, _TITLE + 3 * self.panel + _NOTES
        verdict = public_sentence(self.report.summary.verdict)
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}"'
            ' role="img" aria-labelledby="title description">'
        )
        yield f'<title id="title">{_safe(title)}</title>'
        yield f'<desc id="description">{_safe(verdict)}</desc>'
        yield f"<style>{_STYLE.format(light=_colours(_LIGHT), dark=_colours(_DARK))}</style>"
        yield (
            '<defs><pattern id="undefined" width="6" height="6" patternUnits="userSpaceOnUse"'
            ' patternTransform="rotate(45)"><path class="lines" d="M0 0V6"/></pattern></defs>'
        )
        yield f'<rect class="ground" width="{width:.0f}" height="{height:.0f}" rx="8"/>'
        yield _text(_MARGIN, 32, title, "title")
        yield _text(_MARGIN, 52, _sums(self.report), "soft")
        for place, measure in enumerate((OUTPUT, INPUT, CHANGE)):
            yield from self._map(measure, _TITLE + place * self.panel)
        yield _text(_MARGIN, height - 34, "Hatched: undefined; a cell's title says why.", "soft")
        yield _text(_MARGIN, height - 14, command, "soft code")
        yield "</svg>"

    def _map(self, measure: Measure, top: float) -> Iterator[str]:
        yield _text(_MARGIN, top + 18, measure.title, "heading")
        first = top + _HEADING
        for row, name in enumerate(self.grid.rows):
            yield _text(self.left - 8, first + row * _ROW + 14, name, "", "end")
        for (row, column), module in self.grid.cells.items():
            x, y = self.left + column * self.cell, first + row * _ROW
            title = f"{self._place(row, column)}: {measure.words(module)}"
            yield self._cell(x, y, measure, module, title)
        bottom = first + len(self.grid.rows) * _ROW
        yield from self._axis(bottom)
        yield from self._legend(measure, bottom + _AXIS)

    def _place(self, row: int, column: int) -> str:
        layer = self.grid.layers[column]
        where = "outside the layers" if layer < 0 else f"layer {layer}"
        return f"{self.grid.rows[row]}, {where}"

    def _cell(
        self, x: float, y: float, measure: Measure, module: ComparedModule, title: str
    ) -> str:
        value = measure.value(module)
        fill = 'fill="url(#undefined)"'
        if value is not None:
            step = min(_STEPS - 1, int(measure.position(value) * _STEPS))
            fill = f'class="s{step}"'
        return (
            f'<rect {fill} x="{x:.1f}" y="{y:.1f}" width="{self.cell - 1:.1f}"'
            f' height="{_ROW - 1}"><title>{_safe(title)}</title></rect>'
        )

    def _axis(self, top: float) -> Iterator[str]:
        """Number every layer, or every fifth or tenth where there is less room."""
        every = next(step for step in (1, 5, 10, 50) if step * self.cell >= 22 or step == 50)
        for column, layer in enumerate(self.grid.layers):
            if layer < 0 or layer % every == 0:
                middle = self.left + (column + 0.5) * self.cell
                yield _text(middle, top + 15, self.grid.heading(column), "soft", "middle")
        span = len(self.grid.layers) * self.cell
        yield _text(self.left + span / 2, top + 32, "layer", "soft", "middle")

    def _legend(self, measure: Measure, top: float) -> Iterator[str]:
        for step in range(_STEPS):
            x = self.left + step * _SWATCH
            yield f'<rect class="s{step}" x="{x:.1f}" y="{top:.1f}" width="{_SWATCH}" height="10"/>'
        for position, label in measure.ticks:
            x = self.left + position * _STEPS * _SWATCH
            yield _text(x, top + 24, label, "soft", "middle")


def _colours(ends: tuple[tuple[int, ...], tuple[int, ...]]) -> str:
    """Return the rules of all steps between two colours."""
    rules = []
    for step in range(_STEPS):
        share = step / (_STEPS - 1)
        mixed = (round(low + share * (high - low)) for low, high in zip(*ends, strict=True))
        rules.append(f".s{step} {{ fill: #{''.join(f'{value:02x}' for value in mixed)}; }}")
    return " ".join(rules)


def _sums(report: ComparisonReport) -> str:
    """Return the figures of the whole."""
    summary = report.summary
    words = [f"{summary.modules} modules"]
    if summary.excess is not None:
        words.append(f"mean excess over chance {summary.excess:.3f}")
    if summary.weight_change is not None:
        words.append(f"weight change {summary.weight_change:.3%}")
    return ", ".join(words)


def _command(inputs: Mapping[str, Any]) -> str:
    """Return the command that made a comparison."""
    sides = (shlex.quote(public_name(inputs[side])) for side in ("a", "b"))
    options = f"--subspace-rank {inputs['subspace_rank']} --seed {inputs['seed']}"
    return f"loragraft compare {' '.join(sides)} {options}"


def _text(x: float, y: float, text: str, style: str, anchor: str = "") -> str:
    attributes = f' class="{style}"' if style else ""
    attributes += f' text-anchor="{anchor}"' if anchor else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{attributes}>{_safe(text)}</text>'


def _safe(text: str) -> str:
    """Return a text for XML, which has no room for most control characters."""
    printable = "".join(letter if letter.isprintable() else "�" for letter in text)
    return escape(printable, quote=False)

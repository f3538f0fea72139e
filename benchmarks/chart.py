"""A chart: horizontal bars on a logarithmic scale, drawn as SVG without any library."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from spread import Spread

_WIDTH: Final = 880
_LEFT: Final = 224
_RIGHT: Final = 776
_ROW: Final = 38
_BAR: Final = 20
_HEADER: Final = 74
_RULE_LABEL: Final = 18
_AXIS: Final = 46
_DIGIT: Final = 8
_STYLE: Final = """
  text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; }
  .ground { fill: #ffffff; } text { fill: #24292f; } .soft { fill: #59636e; font-size: 12px; }
  .title { font-size: 16px; font-weight: 600; } .value { font-weight: 600; }
  .grid { stroke: #d8dee4; } .ours { fill: #0b7a5c; } .theirs { fill: #a3b1c2; }
  .range { stroke: #24292f; stroke-width: 1.5; fill: none; }
  .rule { stroke: #b35900; stroke-dasharray: 5 4; stroke-width: 1.5; }
  .mark { fill: #8f4700; font-size: 12px; }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #0d1117; } text { fill: #e6edf3; } .soft { fill: #9198a1; }
    .grid { stroke: #2f353d; } .ours { fill: #3fb68b; } .theirs { fill: #56657a; }
    .range { stroke: #e6edf3; } .rule { stroke: #e3a04f; } .mark { fill: #e9b06c; }
  }
"""


@dataclass(frozen=True, slots=True)
class Mark:
    """One bar.

    Attributes:
        label: Of the row.
        value: Length of the bar, and the range of its whisker.
        ours: Whether to draw it in the strong colour.
        note: A few words under the label.
    """

    label: str
    value: Spread
    ours: bool
    note: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """A vertical line across all bars."""

    label: str
    value: float


@dataclass(frozen=True, slots=True)
class Chart:
    """Bars from the shortest to the longest.

    Attributes:
        title: One line.
        subtitle: A second one.
        unit: Of all values.
        marks: The bars; their values are positive.
        rules: What the bars are held against.
    """

    title: str
    subtitle: str
    unit: str
    marks: Sequence[Mark]
    rules: Sequence[Rule] = ()

    def svg(self) -> str:
        """Return the document."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        height = self._bottom + _AXIS
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img"'
            ' aria-labelledby="title description">'
        )
        yield f'<title id="title">{escape(self.title)}</title>'
        yield f'<desc id="description">{escape(self._in_words())}</desc>'
        yield f"<style>{_STYLE}</style>"
        yield f'<rect class="ground" width="{_WIDTH}" height="{height}" rx="8"/>'
        yield _text(24, 32, self.title, "title")
        yield _text(24, 52, self.subtitle, "soft")
        yield from self._scale()
        middles = [self._top + (index + 0.5) * _ROW for index in range(len(self.marks))]
        for mark, middle in zip(self._sorted, middles, strict=True):
            yield from self._bar(mark, middle)
        for index, rule in enumerate(sorted(self.rules, key=lambda rule: rule.value)):
            yield from self._rule(rule, _HEADER + (index + 0.5) * _RULE_LABEL)
        for mark, middle in zip(self._sorted, middles, strict=True):
            yield from self._value(mark, middle)
        yield "</svg>"

    @property
    def _sorted(self) -> list[Mark]:
        return sorted(self.marks, key=lambda mark: mark.value.median)

    @property
    def _top(self) -> float:
        return _HEADER + len(self.rules) * _RULE_LABEL + 8

    @property
    def _bottom(self) -> float:
        return self._top + len(self.marks) * _ROW

    @property
    def _ends(self) -> tuple[int, int]:
        """The powers of ten between which everything lies."""
        values = [end for mark in self.marks for end in (mark.value.least, mark.value.most)]
        values += [rule.value for rule in self.rules]
        return math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))

    def _x(self, value: float) -> float:
        low, high = self._ends
        return _LEFT + (_RIGHT - _LEFT) * (math.log10(value) - low) / max(high - low, 1)

    def _scale(self) -> Iterator[str]:
        low, high = self._ends
        for power in range(low, high + 1):
            x = self._x(10.0**power)
            yield _line("grid", x, self._top - 4, x, self._bottom)
            yield _text(x, self._bottom + 18, f"{10.0**power:,g}", "soft", "middle")
        middle = (_LEFT + _RIGHT) / 2
        yield _text(middle, self._bottom + 36, f"{self.unit}, logarithmic scale", "soft", "middle")

    def _bar(self, mark: Mark, middle: float) -> Iterator[str]:
        if mark.note:
            yield _text(_LEFT - 12, middle - 3, mark.label, "", "end")
            yield _text(_LEFT - 12, middle + 13, mark.note, "soft", "end")
        else:
            yield _text(_LEFT - 12, middle + 4, mark.label, "", "end")
        colour = "ours" if mark.ours else "theirs"
        width = self._x(mark.value.median) - _LEFT
        yield _box(colour, _LEFT, middle - _BAR / 2, width, _BAR)
        least, most = self._x(mark.value.least), self._x(mark.value.most)
        if most - least >= 1.0:
            path = f"M{least:.1f} {middle - 4:.1f}v8m0-4H{most:.1f}m0-4v8"
            yield f'<path class="range" d="{path}"/>'

    def _rule(self, rule: Rule, y: float) -> Iterator[str]:
        x, words = self._x(rule.value), f"{rule.label}: {figures(rule.value)}"
        yield _line("rule", x, y + 4, x, self._bottom)
        if x < (_LEFT + _RIGHT) / 2:
            yield _text(x + 6, y + 4, words, "mark")
        else:
            yield _text(x - 6, y + 4, words, "mark", "end")

    def _value(self, mark: Mark, middle: float) -> Iterator[str]:
        """Write the figure behind the bar, on a ground of its own where a rule passes."""
        words, x = figures(mark.value.median), self._x(mark.value.most) + 6
        yield _box("ground", x, middle - _BAR / 2, _DIGIT * len(words) + 4, _BAR)
        yield _text(x + 2, middle + 4, words, "value")

    def _in_words(self) -> str:
        bars = (f"{mark.label} {figures(mark.value.median)}" for mark in self._sorted)
        rules = (f"{rule.label} {figures(rule.value)}" for rule in self.rules)
        return f"{self.unit}: {'; '.join([*bars, *rules])}."


def figures(value: float) -> str:
    """Return a positive number with two significant figures, whole from 10 on."""
    if value >= 100.0:
        return f"{round(value, 1 - math.floor(math.log10(value))):,.0f}"
    return f"{value:.{max(1 - math.floor(math.log10(value)), 0)}f}"


def _text(x: float, y: float, words: str, kind: str, anchor: str = "start") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text{style} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _box(kind: str, x: float, y: float, width: float, height: float) -> str:
    ends = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect class="{kind}" {ends} rx="3"/>'


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line class="{kind}" {ends}/>'

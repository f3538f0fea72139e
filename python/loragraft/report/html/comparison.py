"""The page of a comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from loragraft.report.card import public_name
from loragraft.report.html.charts import Scale
from loragraft.report.html.figures import Form, Row, excess_of, shape_of, written
from loragraft.report.html.layers import Measure, layers_of
from loragraft.report.html.view import Column, Records, Section, View, with_values

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_CHANGE: Final = Measure(
    "Weight change, ‖W_B − W_A‖ / ‖W_A‖",
    "weight change",
    lambda one: one.get("weight_change"),
    Form.SHARE,
    Scale.DECADES,
    low_is_notable=False,
)
_OUTPUT: Final = Measure(
    "Similarity above chance, output side",
    "excess, output",
    lambda one: excess_of(one, "left"),
    Form.NUMBER,
    Scale.ABOUT_ZERO,
)
_INPUT: Final = Measure(
    "Similarity above chance, input side",
    "excess, input",
    lambda one: excess_of(one, "right"),
    Form.NUMBER,
    Scale.ABOUT_ZERO,
)


def comparison_view(data: Mapping[str, Any]) -> View:
    """Return the page of a comparison's report."""
    names = [public_name(data["inputs"][side]) for side in ("a", "b")]
    layers = layers_of(data["modules"])
    measures = (_CHANGE, _OUTPUT, _INPUT)
    maps = [one for one in map(layers.heat_map, measures) if one is not None]
    section = Section(
        "Layer by layer",
        (
            "Weight change is defined for equal shapes. Excess compares singular subspaces: 0 is"
            " what unrelated weights have by chance, 1 the same subspaces.",
        ),
        tuple(maps),
        layers.table(measures),
    )
    return View(
        title=f"{names[0]} (A) and {names[1]} (B)",
        facts=tuple(_facts(data["summary"])),
        sections=(section,),
        records=Records("Every pair of modules", _columns(data["modules"])),
    )


def _facts(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "modules compared", f"{summary['modules']:,}"
    yield "clearly above chance", f"{summary['clear']:,}"
    yield "without counterpart", f"{summary['unpaired']:,}"
    yield "mean excess", written(summary["excess"], Form.NUMBER)
    yield "weight change", written(summary["weight_change"], Form.SHARE)
    yield "time", f"{summary['seconds']:.1f} s"


def _columns(modules: Sequence[Row]) -> tuple[Column, ...]:
    def figure(label: str, form: Form, key: str) -> Column:
        return Column(label, form, [one.get(key) for one in modules])

    return with_values(
        (
            Column("name in A", Form.NAME, [one["name"] for one in modules]),
            Column("part", Form.TEXT, [one.get("part", "") for one in modules]),
            Column("name in B", Form.NAME, [one["other"] for one in modules]),
            Column("kind", Form.TEXT, [one["kind"] for one in modules], True),
            figure("layer", Form.COUNT, "layer"),
            Column("shape in A", Form.TEXT, [shape_of(one) for one in modules]),
            Column("shape in B", Form.TEXT, [shape_of(one, "other_shape") for one in modules]),
            figure("weight change", Form.SHARE, "weight_change"),
            figure("cosine", Form.NUMBER, "weight_cosine"),
            Column("excess, output", Form.NUMBER, [_OUTPUT.value(one) for one in modules]),
            Column("excess, input", Form.NUMBER, [_INPUT.value(one) for one in modules]),
            Column("why", Form.TEXT, [_undefined(one) for one in modules]),
        )
    )


def _undefined(module: Row) -> str:
    """Return why a figure of a module is not defined."""
    whys = [(module.get(side) or {}).get("why", "") for side in ("left", "right")]
    return "; ".join(dict.fromkeys(filter(None, whys)))

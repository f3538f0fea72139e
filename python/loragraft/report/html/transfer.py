"""The page of a transfer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from loragraft.report.card import public_name, public_sentence
from loragraft.report.html.charts import Scale
from loragraft.report.html.figures import Form, Row, excess_of, plain, shape_of
from loragraft.report.html.layers import Measure, layers_of
from loragraft.report.html.view import Column, Records, Section, View, with_values
from loragraft.report.page import Table
from loragraft.wording import percent, size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

#: Also drawn for comparisons.
EXCESS: Final = Measure(
    "Similarity above chance, mean of both sides",
    "excess",
    lambda one: one.get("excess"),
    Form.NUMBER,
    Scale.ABOUT_ZERO,
)
_RETAINED: Final = Measure(
    "Norm kept, ‖ΔW_t‖ / ‖ΔW_s‖",
    "norm kept",
    lambda one: one.get("retained"),
    Form.SHARE,
    Scale.AMOUNT,
)
_EFFECT: Final = Measure(
    "Effect on the target, ‖ΔW_t‖ / ‖W_t‖",
    "effect",
    lambda one: one.get("effect"),
    Form.SHARE,
    Scale.DECADES,
    low_is_notable=False,
)
_SIMILARITY: Final = (
    "Excess compares the weights' singular subspaces: 0 is what unrelated weights have by chance,"
    " 1 the same subspaces."
)


def transfer_view(data: Mapping[str, Any]) -> View:
    """Return the page of a transfer's report, or of a control's, which has no figures."""
    inputs, modules = data["inputs"], data["modules"]
    adapter, target = (public_name(inputs.get(key, key)) for key in ("adapter", "target"))
    control = inputs.get("control")
    title = f"{adapter} for {target}" + (f": control {control}" if control else "")
    return View(
        title=title,
        facts=tuple(_facts(data["summary"])),
        sections=tuple(_sections(data)) if modules else (),
        records=Records("Every module and what became of it", _columns(modules)),
    )


def _facts(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for outcome, count in summary.get("counts", {}).items():
        if count:
            yield f"modules {plain(outcome)}", f"{count:,}"
    if summary.get("norm_share") is not None:
        yield "of the adapter placed", percent(summary["norm_share"])
    if summary.get("retained") is not None:
        yield "norm kept", percent(summary["retained"])
    if summary.get("effect") is not None:
        yield "effect ‖ΔW‖ / ‖W‖", percent(summary["effect"])
    if summary.get("layer_map"):
        yield "layers paired", public_name(summary["layer_map"])
    if summary.get("bytes_written"):
        yield "adapter", size(summary["bytes_written"])
    if summary.get("seconds") is not None:
        yield "time", f"{summary['seconds']:.1f} s"


def _sections(data: Mapping[str, Any]) -> Iterator[Section]:
    layers = layers_of(data["modules"])
    similarity = layers.heat_map(EXCESS)
    if similarity is not None:
        yield Section(
            "What the two models share", (_SIMILARITY,), (similarity,), layers.table((EXCESS,))
        )
    maps = [one for one in map(layers.heat_map, (_RETAINED, _EFFECT)) if one is not None]
    near = data["summary"].get("near_no_op")
    texts = ("None of these figures says how well the adapter works: evaluate it.",)
    yield Section(
        "What is left of the update",
        (f"Near no-op: {public_sentence(near)}.", *texts) if near else texts,
        tuple(maps),
        layers.table((_RETAINED, _EFFECT)) if maps else None,
    )
    yield _filters(data.get("filters", ()))


def _filters(filters: Sequence[Row]) -> Section:
    """Return what filters removed."""
    if not filters:
        return Section("What was left out", ("No filter removed anything.",))
    rows = tuple(
        (
            public_sentence(one["option"]),
            public_sentence(one["why"]),
            str(one["modules"]),
            percent(one["share"]),
        )
        for one in filters
    )
    columns = ("filter", "why", "modules", "share of squared norm")
    return Section("What was left out", table=Table(columns, rows, words=2))


def _columns(modules: Sequence[Row]) -> tuple[Column, ...]:
    def texts(key: str, choice: bool = False) -> Column:
        return Column(key, Form.TEXT, [str(one.get(key) or "") for one in modules], choice)

    def figure(label: str, form: Form, key: str) -> Column:
        return Column(label, form, [one.get(key) for one in modules])

    return with_values(
        (
            Column("name", Form.NAME, [one["name"] for one in modules]),
            texts("part"),
            Column("outcome", Form.TEXT, [plain(one["outcome"]) for one in modules], True),
            Column("why", Form.TEXT, [public_sentence(one["why"]) for one in modules]),
            texts("kind", choice=True),
            figure("layer", Form.COUNT, "layer"),
            Column("source", Form.NAME, [one["source"] for one in modules]),
            texts("method"),
            Column("shape", Form.TEXT, [shape_of(one) for one in modules]),
            figure("share", Form.SHARE, "share"),
            Column("excess, output", Form.NUMBER, [excess_of(one, "left") for one in modules]),
            Column("excess, input", Form.NUMBER, [excess_of(one, "right") for one in modules]),
            figure("weight change", Form.SHARE, "weight_change"),
            figure("rank", Form.COUNT, "rank"),
            figure("norm kept", Form.SHARE, "retained"),
            figure("by chance", Form.SHARE, "chance_retained"),
            figure("effect", Form.SHARE, "effect"),
        )
    )

"""The page of an extraction, and of a verification."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from loragraft.report.card import public_name, public_sentence
from loragraft.report.curves import curve_table
from loragraft.report.html.charts import Scale
from loragraft.report.html.figures import Form, Row, plain, shape_of
from loragraft.report.html.layers import Layers, Measure, layers_of
from loragraft.report.html.spectra import spectra_of
from loragraft.report.html.view import Column, Records, Section, View, with_values
from loragraft.wording import percent, size, span

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_ENERGY: Final = Measure(
    "Retained energy by layer and kind of module",
    "energy kept",
    lambda one: one["energy"],
    Form.SHARE,
    Scale.SHARE,
)
_CHANGE: Final = Measure(
    "What the fine-tuning changed, ‖ΔW‖ / ‖W‖",
    "relative change",
    lambda one: one["delta_norm"] / one["weight_norm"] if one["weight_norm"] else None,
    Form.SHARE,
    Scale.DECADES,
    low_is_notable=False,
)
_RANK: Final = Measure(
    "Rank chosen", "rank", lambda one: one["rank"], Form.COUNT, Scale.AMOUNT, low_is_notable=False
)
_EXACT: Final = Measure(
    "Weights reproduced bit for bit",
    "bit-exact",
    lambda one: one.get("bit_exact"),
    Form.SHARE,
    Scale.SHARE,
)


def extraction_view(data: Mapping[str, Any]) -> View:
    """Return the page of an extraction's report."""
    modules = data["modules"]
    inputs = data["inputs"]
    base, tuned = (public_name(inputs.get(side, side)) for side in ("base", "tuned"))
    layers = layers_of(modules)
    sections = [*_sections(data, layers)] if modules else []
    return View(
        title=f"{tuned} as an adapter for {base}",
        facts=tuple(_facts(data)),
        sections=tuple(sections),
        records=Records("Every tensor and what became of it", _columns(data)),
    )


def _facts(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    summary, modules = data["summary"], data["modules"]
    if modules:
        yield "energy kept", percent(summary["energy"])
        yield "relative error", f"{summary['error']:.3f}"
        ranks = [one["rank"] for one in modules]
        yield "rank", span(min(ranks), max(ranks))
        yield "modules adapted", f"{len(modules):,}"
    if summary.get("bit_exact") is not None:
        yield "bit-exact", percent(summary["bit_exact"])
    if summary.get("bytes_written"):
        yield "adapter", size(summary["bytes_written"])
    for outcome, count in summary.get("counts", {}).items():
        if count:
            yield f"tensors {plain(outcome)}", f"{count:,}"
    yield "time", f"{summary['seconds']:.1f} s"


def _sections(data: Mapping[str, Any], layers: Layers) -> Iterator[Section]:
    maps = [layers.heat_map(measure) for measure in (_ENERGY, _CHANGE, _EXACT)]
    yield Section(
        "How much of the fine-tuning is kept",
        (
            "Energy is the share of ‖ΔW‖² that the adapter reproduces, measured on the tensors"
            " as they are stored. Rounded weights leave a part that no adapter has.",
        ),
        tuple(one for one in maps if one is not None),
        layers.table((_ENERGY, _CHANGE)),
    )
    yield _ranks(layers, data["modules"])
    spectra = tuple(spectra_of(layers))
    if spectra:
        yield Section(
            "Singular values",
            (
                "Of ΔW, as shares of ‖ΔW‖: the median over the layers, and from the least to the"
                " largest. Dashed: the largest value that the rounding of the weights alone would"
                " give. Values below it say nothing of the fine-tuning. Dotted: the rank written.",
            ),
            spectra,
        )
    found = data.get("recognition")
    if found and found["curves"]:
        yield Section(
            "What other ranks would keep",
            tuple(found["evidence"]),
            (),
            curve_table(found["curves"]),
        )


def _ranks(layers: Layers, modules: Sequence[Row]) -> Section:
    """Return the ranks: a map where they differ, else a sentence."""
    ranks = {one["rank"] for one in modules}
    if len(ranks) == 1:
        return Section("Rank", (f"All {len(modules):,} modules have rank {ranks.pop()}.",))
    drawn = layers.heat_map(_RANK)
    return Section("Rank", (), () if drawn is None else (drawn,), layers.table((_RANK,)))


def _columns(data: Mapping[str, Any]) -> tuple[Column, ...]:
    """Return the table: a row for each tensor, and for each module that is not one tensor."""
    pairs = list(_paired(data["tensors"], data["modules"]))
    tensors = [tensor for tensor, _ in pairs]
    modules = [module for _, module in pairs]
    either = [module or tensor for tensor, module in pairs]

    def figure(key: str, form: Form) -> Column:
        return Column(key.replace("_", " "), form, [one.get(key) for one in modules])

    experts = [one.get("experts") or None for one in modules]
    return with_values(
        (
            Column("name", Form.NAME, [(t or m)["name"] for t, m in pairs]),
            Column(
                "outcome", Form.TEXT, [plain(t.get("outcome", "adapted")) for t in tensors], True
            ),
            Column("why", Form.TEXT, [public_sentence(t.get("why", "")) for t in tensors]),
            Column("kind", Form.TEXT, [one.get("kind", "") for one in modules], True),
            figure("layer", Form.COUNT),
            Column("shape", Form.TEXT, [shape_of(one) for one in either]),
            Column("experts", Form.COUNT, experts),
            figure("rank", Form.COUNT),
            figure("energy", Form.SHARE),
            figure("relative_error", Form.NUMBER),
            figure("optimal_error", Form.NUMBER),
            figure("rounding_floor", Form.NUMBER),
            figure("bit_exact", Form.SHARE),
            Column("relative change", Form.SHARE, [_change(t, m) for t, m in pairs]),
        )
    )


def _change(tensor: Row, module: Row) -> float | None:
    return _CHANGE.value(module) if module else tensor.get("relative_change")


def _paired(tensors: Sequence[Row], modules: Sequence[Row]) -> Iterator[tuple[Row, Row]]:
    """Yield each tensor with its module, then the modules that are not one tensor each."""
    by_name = {one["name"]: one for one in modules}
    for tensor in tensors:
        name = tensor["name"]
        module = by_name.pop(name.removesuffix(".weight"), None) or by_name.pop(name, None)
        yield tensor, module or {}
    for module in by_name.values():
        yield {}, module

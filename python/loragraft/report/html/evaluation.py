"""The page of an evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from loragraft.report.card import public_name, public_sentence
from loragraft.report.html.charts import Forest, Interval
from loragraft.report.html.figures import Form, Row, plain, written
from loragraft.report.html.view import Column, Records, Section, View, with_values
from loragraft.report.page import Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

#: Metrics that share an axis: its label, by how much figures are multiplied, their names.
_AXES: Final = (
    ("points", 100.0, {"acc": "acc", "acc_norm": "acc_norm"}),
    ("nats", 1.0, {"margin": "margin", "gold_log_likelihood": "right answer"}),
)
#: Metrics whose gap to the oracle is told; that in accuracy is often too small to be measured.
_GAPS: Final = {"acc": "acc", "gold_log_likelihood": "log-likelihood"}
_FIDELITY: Final = {
    "kl": "KL to the tuned model",
    "kl_base": "KL of the base",
    "top1": "same top token",
    "vocabulary": "tokens compared",
    "outside": "tuned model's probability of other tokens",
}


def evaluation_view(data: Mapping[str, Any]) -> View:
    """Return the page of an evaluation's report."""
    return View(
        title=f"{public_name(data['inputs'].get('model', 'base'))}, evaluated",
        facts=tuple(_facts(data)),
        sections=tuple(_sections(data)),
        records=Records("Every comparison", _columns(data["comparisons"])),
    )


def _facts(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "candidates", str(len(data["candidates"]))
    for task in data["tasks"]:
        yield f"questions of {task['name']}", f"{task['questions']:,}"
    yield "time", f"{data['summary']['seconds']:.1f} s"


def _sections(data: Mapping[str, Any]) -> Iterator[Section]:
    for task in data["tasks"]:
        compared = [one for one in data["comparisons"] if one["task"] == task["name"]]
        yield Section(
            f"{task['name']}, {task['questions']:,} questions",
            tuple(f"{_pair(one)}: {public_sentence(one['words'])}" for one in compared),
            tuple(_forests(compared)),
            _scores(task["candidates"]),
        )
    yield from _gaps(data["comparisons"])
    if data.get("fidelity"):
        yield Section(
            "Fidelity to the tuned model",
            (
                "KL divergence per token, in nats, of the tuned model from the candidate, beside"
                " that from the base: 0 is the tuned model itself.",
            ),
            table=_rows_table(data["fidelity"]),
        )
    yield Section("Who was evaluated", table=_rows_table(data["candidates"]))


def _pair(one: Row) -> str:
    return f"{one['candidate']} against {one['against']}"


def _forests(compared: Sequence[Row]) -> Iterator[Forest]:
    """Yield a chart for each unit in which differences are told."""
    for label, times, metrics in _AXES:
        found = tuple(
            _interval(_pair(one), name, figures, times, label)
            for one in compared
            for metric, name in metrics.items()
            if (figures := one["metrics"].get(metric)) is not None
        )
        if found:
            title = f"Differences with 95 % intervals, {' and '.join(metrics.values())}"
            yield Forest(title, label, found, ((0.0, "no difference"),))


def _interval(row: str, name: str, figures: Row, times: float, unit: str) -> Interval:
    value, low, high = (times * figures[key] for key in ("difference", "low", "high"))
    p = figures.get("p_holm")
    tail = "" if p is None else f", p {p:.2g} (Holm)"
    words = f"{row}: {name} {value:+.2f} {unit} ({low:+.2f} to {high:+.2f}){tail}"
    return Interval(row, name, value, low, high, words)


def _gaps(comparisons: Sequence[Row]) -> Iterator[Section]:
    """Yield how much of an oracle's lead was recovered, where there is an oracle."""
    found = [
        _recovered(f"{one['candidate']}, {one['task']}: {name}", gap)
        for one in comparisons
        for metric, name in _GAPS.items()
        if (gap := one["metrics"].get(metric, {}).get("gap")) is not None
    ]
    if found:
        chart = Forest(
            "Gap recovered, with 95 % intervals",
            "% of the oracle's lead",
            tuple(found),
            ((0.0, "base"), (100.0, "oracle")),
            bars=True,
        )
        yield Section("How much of the oracle's lead", charts=(chart,), table=_gap_table(found))


def _recovered(row: str, gap: Row) -> Interval:
    value, low, high = (100.0 * gap[key] for key in ("value", "low", "high"))
    words = f"{row}, {value:.1f} % of the lead ({low:.1f} to {high:.1f})"
    return Interval(row, "gap recovered", value, low, high, words)


def _gap_table(found: Sequence[Interval]) -> Table:
    rows = tuple(
        (one.row, f"{one.value:.1f}%", f"{one.low:.1f}%", f"{one.high:.1f}%") for one in found
    )
    return Table(("candidate", "gap recovered", "low", "high"), rows)


def _scores(candidates: Sequence[Row]) -> Table:
    metrics = {name: label for _, _, names in _AXES for name, label in names.items()}
    rows = tuple(
        (
            str(one["name"]),
            *(
                written(one.get(name), Form.SHARE if name.startswith("acc") else Form.NUMBER)
                for name in metrics
            ),
        )
        for one in candidates
    )
    labels = ("acc", "acc_norm", "margin (nats)", "right answer (nats)")
    return Table(("candidate", *labels), rows)


def _rows_table(rows: Sequence[Row]) -> Table:
    """Return rows as a table of whatever keys they have, those of plain figures and texts."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    simple = [key for key in keys if all(_is_simple(row.get(key)) for row in rows)]
    words = sum(all(not _is_figure(row.get(key)) for row in rows) for key in simple)
    # Words come first, as in all tables.
    simple.sort(key=lambda key: any(_is_figure(row.get(key)) for row in rows))
    return Table(
        tuple(_FIDELITY.get(key, plain(key)) for key in simple),
        tuple(tuple(_cell(key, row.get(key)) for key in simple) for row in rows),
        words=words,
    )


def _is_figure(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_simple(value: object) -> bool:
    return value is None or isinstance(value, str | int | float)


def _cell(key: str, value: Any) -> str:
    if value is None or isinstance(value, str):
        return public_name(value) if key == "path" and value else str(value or "–")
    if isinstance(value, int):
        return f"{value:,}"
    return written(value, Form.SHARE if key.startswith("top1") else Form.NUMBER)


def _columns(comparisons: Sequence[Row]) -> tuple[Column, ...]:
    rows = [(one, name, figures) for one in comparisons for name, figures in one["metrics"].items()]

    def texts(key: str, choice: bool = False) -> Column:
        return Column(key, Form.TEXT, [str(one[key]) for one, _, _ in rows], choice)

    def figure(label: str, key: str) -> Column:
        return Column(label, Form.NUMBER, [figures.get(key) for _, _, figures in rows])

    return with_values(
        (
            texts("task", True),
            texts("candidate", True),
            texts("against", True),
            Column("metric", Form.TEXT, [str(name) for _, name, _ in rows], True),
            figure("value", "value"),
            figure("other", "other"),
            figure("difference", "difference"),
            figure("low", "low"),
            figure("high", "high"),
            figure("p", "p"),
            figure("p, Holm", "p_holm"),
            Column("changed answers", Form.SHARE, [one.get("changed") for one, _, _ in rows]),
        )
    )

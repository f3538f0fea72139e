"""One page for a browser out of a report's data: nothing is loaded from anywhere."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from loragraft import __version__
from loragraft.report.card import public_sentence
from loragraft.report.html.command import command_line
from loragraft.report.html.comparison import comparison_view
from loragraft.report.html.evaluation import evaluation_view
from loragraft.report.html.extraction import extraction_view
from loragraft.report.html.plotly_script import plotly_script
from loragraft.report.html.transfer import transfer_view

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jinja2 import Template

    from loragraft.report.html.view import View

_VIEWS: Final[Mapping[str, Callable[[Mapping[str, Any]], View]]] = {
    "extract": extraction_view,
    "verify": extraction_view,
    "transfer": transfer_view,
    "compare": comparison_view,
    "evaluate": evaluation_view,
}
#: What would end the element that holds the data, or a line of a script.
_ESCAPES: Final = str.maketrans(
    {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
)


def html_report(data: Mapping[str, Any]) -> str:
    """Return a report as a page that is complete in itself.

    The page has the figures of the report as tables and, where the package ``plotly`` is
    installed (extra ``plot``), as charts. Local paths are shortened to their last component.

    Args:
        data: Of a ``report.json`` with schema ``loragraft.report/1``: of extract, verify, transfer,
            compare or evaluate.

    Raises:
        KeyError: The data lack what the schema requires, or are of another command.
    """
    command = str(data["command"])
    view = _VIEWS[command](data)
    charts = [chart.to_json() for section in view.sections for chart in section.charts]
    script = plotly_script() if charts else None
    return _template().render(
        view=view,
        command=command,
        verdict=public_sentence(data["summary"]["verdict"]),
        warnings=[public_sentence(one) for one in data["summary"].get("warnings", ())],
        command_line=command_line(data),
        version=__version__,
        has_charts=bool(charts),
        plotly=script,
        embedded=_embedded(
            {
                "charts": charts if script else [],
                "columns": [column.to_json() for column in view.records.columns],
                "rows": view.records.rows,
            }
        ),
    )


def _embedded(data: object) -> str:
    """Return data as JSON that stands for itself within a script element."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(_ESCAPES)


@cache
def _template() -> Template:
    # Loaded late: it takes longer than all else that a small extraction loads.
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415

    loader = PackageLoader("loragraft.report.html")
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja")

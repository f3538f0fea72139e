"""A page as data: what the template and the scripts lay out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from loragraft.report.html.figures import Form, brief

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from loragraft.report.html.charts import Chart
    from loragraft.report.page import Table


class Section(NamedTuple):
    """A part of the page under its heading.

    Attributes:
        title: The heading.
        texts: What a reader should know, a paragraph each.
        charts: Those of the section.
        table: Its figures.
    """

    title: str
    texts: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()
    table: Table | None = None


class Column(NamedTuple):
    """A column of the table of decisions.

    Attributes:
        label: Its heading.
        form: What its cells are.
        values: One for each row; None is an empty cell.
        choice: Whether a reader may choose one of its values.
    """

    label: str
    form: Form
    values: Sequence[Any]
    choice: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the column as the scripts read it; equal texts are kept once."""
        head = {"label": self.label, "form": self.form, "choice": self.choice}
        if self.form not in {Form.TEXT, Form.NAME}:
            return {**head, "values": [brief(value) for value in self.values]}
        words = {word: code for code, word in enumerate(dict.fromkeys(self.values))}
        return {**head, "words": list(words), "codes": [words[word] for word in self.values]}


class Records(NamedTuple):
    """The table of decisions: a row for everything that was decided on.

    Attributes:
        title: Its heading.
        columns: All of one length.
    """

    title: str
    columns: tuple[Column, ...]

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.columns[0].values) if self.columns else 0


class View(NamedTuple):
    """The page of one report.

    Attributes:
        title: The heading.
        facts: Names and figures that sum it up.
        sections: In their order.
        records: The table of decisions.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
    records: Records


def with_values(columns: Iterable[Column]) -> tuple[Column, ...]:
    """Return the columns that have something to show."""
    return tuple(one for one in columns if any(value not in {None, ""} for value in one.values))

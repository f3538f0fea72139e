"""Singular values as curves in lines of text."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from rich.console import Console

from loragraft.report.page import Page
from loragraft.report.spectra import spectra_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loragraft.report.model import ModuleReport


def module(kind: str, *values: float) -> ModuleReport:
    return cast("ModuleReport", SimpleNamespace(kind=kind, singular_values=values))


def rows(*modules: ModuleReport) -> Sequence[tuple[str, ...]]:
    table = spectra_table(modules)
    assert table is not None
    return table.rows


def test_curves_of_all_kinds_share_a_logarithmic_scale() -> None:
    steep, flat = module("q_proj", 8.0, 0.8, 0.08), module("down_proj", 2.0, 2.0, 0.2)
    # One and two of two decades down: the top, the middle, the bottom.
    assert rows(steep, flat) == (("q_proj", "█▅▁", "0.01"), ("down_proj", "██▅", "0.1"))


def test_of_several_modules_the_median_is_drawn() -> None:
    found = rows(module("q", 1.0, 0.1, 0.1), module("q", 5.0, 0.5, 0.05), module("q", 2.0, 2e-3))
    # The second is the median of 0.1, 0.1 and 0.001, the third that of 0.1 and 0.01: 1.26 decades
    # down is the lowest of eight bars, one decade the second.
    assert found == (("q", "█▂▁", "0.055"),)


def test_what_has_no_curve_is_left_out_and_zeros_are_gaps() -> None:
    assert spectra_table([module("q", 1.0), module("q"), module("q", 0.0, 0.0)]) is None
    assert spectra_table([]) is None
    assert rows(module("q", 1.0, 0.1, 0.0), module("v", 0.0, 0.0)) == (("q", "█▁ ", "0.1"),)


def test_the_table_is_the_same_with_and_without_rich() -> None:
    table = spectra_table([module("q_proj", 1.0, 0.5, 0.1), module("v_proj", 3.0, 0.1, 0.1)])
    assert table is not None
    console = Console(file=io.StringIO(), width=80, highlight=False)
    with console.capture() as capture:
        console.print(Page((table,)))
    assert Page((table,)).plain(80) == capture.get()

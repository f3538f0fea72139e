"""Pages laid out without Rich: the same as with it, or not at all."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from loragraft.report.page import Facts, Line, Page, Table

WIDTH = 60
#: What names and messages consist of, and what Rich reads as markup, emoji or two columns.
LETTERS = st.sampled_from("ab_.-/ 0123456789%()[]\\:×–−‖Δ,;smile漢\u0301\t\n")
TEXT = st.text(LETTERS, max_size=40)
#: Headings and names are never empty.
NAME = st.text(LETTERS, min_size=1, max_size=12)
WORDS = st.lists(st.sampled_from(["left", "out:", "12", "×", "a.b.c", "", "x" * 59, "-"]))
LINES = st.builds(Line, TEXT | WORDS.map(" ".join), st.sampled_from(["", "bold", "yellow"]))
FACTS = st.lists(st.tuples(NAME, NAME), min_size=1, max_size=4).map(lambda r: Facts(tuple(r)))


@st.composite
def tables(draw: st.DrawFn) -> Table:
    count = draw(st.integers(1, 4))
    row = st.tuples(*[TEXT.map(lambda text: text[:12])] * count)
    columns = st.tuples(*[NAME] * count)
    rows = draw(st.lists(row, min_size=1, max_size=4))
    return Table(draw(columns), tuple(rows), draw(st.just(()) | row), draw(st.integers(0, count)))


def with_rich(page: Page, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False, color_system=None)
    with console.capture() as capture:
        console.print(page)
    return capture.get()


@given(st.lists(LINES | FACTS | tables(), min_size=1, max_size=3), st.integers(30, WIDTH))
def test_plain_pages_are_what_rich_makes_of_them(
    parts: list[Line | Facts | Table], width: int
) -> None:
    page = Page(tuple(parts))
    plain = page.plain(width)
    assert plain is None or plain == with_rich(page, width)


@pytest.mark.parametrize(
    "page",
    [
        Page((Line("one"), Line("two " * 40, "bold"), Line(""))),
        Page((Facts((("size", "7 tensors: 121.6 MB"), ("a longer name", ""))),)),
        Page((Table(("module", "n"), (("q_proj", "1"), ("[b]", "20")), ("all", "21")),)),
        Page((Table(("module", "shape", "n"), (("q_proj", "8 × 16", "1"),), words=2),)),
        Page((Table(("module", "n"), ()),)),
    ],
)
def test_the_usual_needs_no_rich(page: Page) -> None:
    assert page.plain(WIDTH) == with_rich(page, WIDTH)


@pytest.mark.parametrize(
    "text", ["漢字", "e\u0301", "a\tb", "a\nb", ":smile: :x:", "x" * (WIDTH + 1), "\x1b[1m"]
)
def test_the_rest_is_left_to_rich(text: str) -> None:
    assert Page((Line("before"), Line(text))).plain(WIDTH) is None
    assert Page((Table(("a", "b"), ((text, "1"),)),)).plain(WIDTH) is None


@pytest.mark.parametrize("text", ["a\x1b[2Jb", "a\rb", "a\x9b1mb", "a\u202eb", "a\x07", "\ud800b"])
def test_what_a_file_says_cannot_act_on_a_terminal(text: str) -> None:
    page = Page((Line(text), Facts(((text, text),)), Table((text,), ((text,),), total=(text,))))
    file = io.StringIO()
    Console(file=file, width=120, force_terminal=True, color_system=None).print(page)
    shown = file.getvalue().replace("\x1b[1m", "").replace("\x1b[0m", "").replace("\x1b[2m", "")
    assert shown.replace("\n", "").isprintable()
    assert ascii(text)[1:-1] in shown

"""Results as files, and what must hold before two are compared."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluated import made, right
from loragraft.errors import FormatError, MismatchError, NonFiniteError
from loragraft.evaluation.items import Items
from loragraft.evaluation.items_file import item_lines, read_items, write_items
from loragraft.evaluation.pairing import check_finite, check_pair

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
FINITE = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def results(draw: st.DrawFn) -> Items:
    ids = draw(st.lists(NAMES, unique=True, max_size=5))
    counts = [draw(st.integers(2, 5)) for _ in ids]
    width = max(counts, default=0)
    scores, lengths = np.full((2, len(ids), width), np.nan)
    for row, count in enumerate(counts):
        scores[row, :count] = draw(st.lists(FINITE, min_size=count, max_size=count))
        lengths[row, :count] = draw(st.lists(st.integers(1, 999), min_size=count, max_size=count))
    gold = np.array([draw(st.integers(0, count - 1)) for count in counts], np.intp)
    return Items(draw(NAMES), draw(NAMES), tuple(ids), gold, scores, lengths)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("items") / "a.jsonl"


@given(results())
def test_results_come_back_bit_for_bit(place: Path, items: Items) -> None:
    write_items(place, items)
    found = read_items(place)
    assert (found.task, found.candidate, found.ids) == (items.task, items.candidate, items.ids)
    for name in ("gold", "log_likelihoods", "lengths"):
        mine, theirs = getattr(found, name), getattr(items, name)
        assert mine.dtype == theirs.dtype
        assert mine.shape == theirs.shape
        assert mine.tobytes() == theirs.tobytes()


def changed(line: int, **values: Any) -> Callable[[list[str]], None]:
    def change(lines: list[str]) -> None:
        lines[line] = json.dumps({**json.loads(lines[line]), **values})

    return change


def put(line: int, text: str) -> Callable[[list[str]], None]:
    def change(lines: list[str]) -> None:
        lines[line] = text

    return change


@pytest.mark.parametrize(
    ("change", "line", "words"),
    [
        (changed(0, schema="else/1"), 1, "expected 'loragraft.items/1'"),
        (changed(0, task=None), 1, "got None for task"),
        (changed(0, candidate=3), 1, "got 3 for candidate"),
        (put(0, "[]"), 1, "expected a JSON object"),
        (put(2, '{"id": "q1", "go'), 3, "not valid JSON"),
        (put(2, ""), 3, "not valid JSON"),
        (changed(2, id="q0"), 3, "comes twice"),
        (changed(2, id=7), 3, "got 7 for id"),
        (changed(2, gold=4), 3, "from 0 to 3"),
        (changed(2, gold=-1), 3, "from 0 to 3"),
        (changed(2, gold=True), 3, "from 0 to 3"),
        (changed(3, log_likelihoods=[-1.0, -2.0]), 4, "got 2 log_likelihoods and 4 lengths"),
        (changed(3, log_likelihoods=[-1.0], lengths=[3]), 4, "two or more"),
        (changed(3, log_likelihoods=[-1.0, -2.0, "x", -1.0]), 4, "expected a list of numbers"),
        (changed(3, log_likelihoods=[-1.0, -2.0, 10**400, -1.0]), 4, "a list of numbers"),
        (changed(3, lengths=[1, 2, 0, 4]), 4, "expected more than 0"),
        (put(1, '{"id": "q0", "gold": 0, "log_likelihoods": [NaN, -1], "lengths": [1, 1]}'), 2,
         "NaN is no JSON value"),
        (put(1, '{"id": "q0", "gold": 0, "log_likelihoods": [1e999, -1], "lengths": [1, 1]}'), 2,
         "expected a list of numbers"),
        (lambda lines: lines.pop(), 5, "ends after 4 questions, expected 5"),
    ],
)  # fmt: skip
def test_a_malformed_file_is_refused_by_its_line(
    tmp_path: Path, change: Callable[[list[str]], None], line: int, words: str
) -> None:
    lines = list(item_lines(made("a", right(5, 2))))
    change(lines)
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(FormatError) as error:
        read_items(path)
    assert f"a.jsonl, line {line}: " in str(error.value)
    assert words in str(error.value)


def with_answers(items: Items, column: int, value: float) -> Items:
    lengths = items.lengths.copy()
    lengths[1, column] = value
    return replace(items, lengths=lengths)


def of(items: Items, gold: Sequence[int]) -> Items:
    return replace(items, gold=np.array(gold, np.intp))


ONE = made("one", right(3, 2))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (made("two", right(4, 2)), "got 3 questions, expected 4"),
        (replace(ONE, ids=("q0", "q2", "q1")), "got question 'q1', expected 'q2'"),
        (of(ONE, [0, 0, 1]), "question 'q2': the right answers differ"),
        (with_answers(ONE, 2, 11.0), "question 'q1': the answers differ"),
        (with_answers(ONE, 3, np.nan), "question 'q1': the answers differ"),
        (replace(ONE, lengths=np.ones((3, 5))), "differ in the number of answers"),
        (replace(ONE, task="arc_easy"), "cannot be paired with those of one on arc_easy"),
    ],
)
def test_other_questions_are_not_paired(other: Items, words: str) -> None:
    check_pair(ONE, ONE)
    with pytest.raises(MismatchError, match=words):
        check_pair(ONE, other)


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_what_is_no_number_is_not_compared(value: float) -> None:
    scores = ONE.log_likelihoods.copy()
    scores[1:, 2] = value
    with pytest.raises(NonFiniteError, match=r"one on .*'q1'.* answer 2.*2 questions in all"):
        check_finite(replace(ONE, log_likelihoods=scores))
    # Fewer answers are no fault.
    lengths = ONE.lengths.copy()
    lengths[1:, 2] = scores[1:, 2] = np.nan
    check_finite(replace(ONE, log_likelihoods=scores, lengths=lengths))

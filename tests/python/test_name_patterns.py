"""Patterns of adapters: what `re` would say of them, and never for long."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loragraft.adapter.automaton import Automaton, Budget
from loragraft.adapter.name_patterns import NamePatterns

NAMES = (
    "model.layers.0.self_attn.q_proj",
    "model.layers.10.mlp.experts.3.down_proj",
    "q_proj",
    "",
    "a",
    "aab",
    "é.ü",
    "model_layers_1",
)
PATTERNS = (
    "q_proj",
    r"model\.layers\.(0|10)\..*",
    r"model\.layers\.\d+\.self_attn\.(q|k|v)_proj",
    "[^.]+",
    "(a+)+b",
    "(a*)*",
    "a{2}b?",
    "a{1,3}?b",
    "(?:|a)*b",
    "^a",
    "a$",
    "a^",
    "(a$|b)",
    r"\w+\.\W",
    r"[\d_a-c]*",
    r"[^\s\d]{2,}",
    "(?P<x>a)a",
    "a)|(b",
    ".+_proj|a",
    "()",
    "(){3}",
    "",
    "[[a]",
    r"\x61",
    "(((a)))",
)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.filterwarnings("ignore:Possible nested set")
def test_an_automaton_says_what_re_says(pattern: str) -> None:
    for form in ("{}", "({})$", r"(.*\.)?({})$"):
        text = form.format(pattern)
        try:
            expected = re.compile(text)
        except re.error:
            with pytest.raises(ValueError, match="no regular expression"):
                Automaton(text, Budget())
            continue
        ours = Automaton(text, Budget())
        for name in NAMES:
            assert ours.matches(name) == (expected.match(name) is not None), (text, name)


ATOMS = st.sampled_from(["a", "b", ".", r"\.", "[ab]", "[^a]", r"\w", "^", "$", ""])
EXPRESSIONS = st.recursive(
    ATOMS,
    lambda inner: (
        st.tuples(inner, inner).map("".join)
        | st.tuples(inner, inner).map("({0[0]}|{0[1]})".format)
        | st.tuples(inner, st.sampled_from(["*", "+", "?", "{0,2}", "{2}", "{1,}", "*?"])).map(
            "({0[0]}){0[1]}".format
        )
    ),
    max_leaves=5,
)


@given(EXPRESSIONS, st.text("ab.", max_size=6))
def test_generated_expressions(pattern: str, text: str) -> None:
    expected = re.compile(pattern).match(text) is not None
    assert Automaton(pattern, Budget()).matches(text) == expected


KEYS = st.text("ab._", min_size=1, max_size=4) | EXPRESSIONS


@given(st.dictionaries(KEYS, st.integers(), max_size=5), st.text("ab._", max_size=6))
def test_the_first_pattern_that_fits(table: dict[str, int], name: str) -> None:
    patterns: NamePatterns[int] = NamePatterns(Budget())
    for key, value in table.items():
        patterns.add(key, value)
    expected = (v for key, v in table.items() if re.match(rf"(.*\.)?({key})$", name))
    assert patterns.find(name) == next(expected, None)


@pytest.mark.parametrize("pattern", ["(a+)+b", "(.*)*x", "(.|.)*!", ".*.*.*.*.*.*x", "(a|aa)+$"])
def test_time_grows_with_the_text(pattern: str) -> None:
    started = time.perf_counter()
    assert not Automaton(pattern, Budget()).matches("a" * 10_000 + ".")
    assert time.perf_counter() - started < 5  # milliseconds


@pytest.mark.parametrize(
    "pattern", ["(?=a)a", "(?!a)b", "(?<=a)b", r"(a)\1", r"\ba", "(?i:a)", "(?>a)b", "a++b"]
)
def test_what_is_no_regular_expression(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"not matched here|no regular expression"):
        Automaton(pattern, Budget())


@pytest.mark.parametrize("pattern", ["((a{99}){99}){99}", "(){99999}", "(a?){5001}"])
def test_what_is_too_large(pattern: str) -> None:
    with pytest.raises(ValueError, match="larger than 5000 places"):
        Automaton(pattern, Budget())


def test_a_budget_ends() -> None:
    budget = Budget(1000)
    automaton = Automaton("(.?){300}x", budget)
    with pytest.raises(ValueError, match="takes too long"):
        automaton.matches("a" * 1000)


def test_many_names_are_looked_up() -> None:
    patterns: NamePatterns[int] = NamePatterns(Budget())
    names = [f"model.layers.{i}.self_attn.q_proj" for i in range(20_000)]
    for number, name in enumerate(names):
        patterns.add(name, number)
    started = time.perf_counter()
    assert [patterns.find(name) for name in names] == list(range(20_000))
    assert time.perf_counter() - started < 5  # 0.2 s

"""Rank rules on prescribed spectra: what they promise, and how they refuse."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loragraft.errors import MismatchError, UsageError
from loragraft.extraction.ranks import (
    MAX_RANK,
    AutoRank,
    BudgetRank,
    EnergyRank,
    ErrorRank,
    FixedRank,
    SeveralRanks,
    Spectrum,
    parse_rank,
    rules,
)
from made_merges import spectrum_of, together

#: Sums of squares of single numbers, once forwards and once backwards, agree this well.
CLOSE = 1e-9


@pytest.mark.parametrize(
    ("text", "max_rank", "rule"),
    [
        (16, None, FixedRank(16)),
        ("16", None, FixedRank(16)),
        (" 16 ", 16, FixedRank(16)),
        ("300", None, FixedRank(300)),
        ("32, 8,16,8", None, SeveralRanks((8, 16, 32))),
        ("8,8", None, FixedRank(8)),
        ("auto", None, AutoRank(MAX_RANK)),
        ("auto", 64, AutoRank(64)),
        ("energy=0.95", None, EnergyRank(0.95, MAX_RANK)),
        ("error=.05", 32, ErrorRank(0.05, 32)),
        ("budget=20M", None, BudgetRank(20_000_000, MAX_RANK)),
        ("budget=1.5k", None, BudgetRank(1500, MAX_RANK)),
        ("budget=2g", None, BudgetRank(2_000_000_000, MAX_RANK)),
        ("budget=777", None, BudgetRank(777, MAX_RANK)),
    ],
)
def test_texts(text: int | str, max_rank: int | None, rule: object) -> None:
    assert parse_rank(text, max_rank) == rule
    assert type(parse_rank(text, max_rank)) is type(rule)


@pytest.mark.parametrize(
    "text",
    [
        *("", "0", "-3", "2.5", "8,", "8,0", "many", "AUTO", "energy", "rank=4", "energy="),
        *("energy=95", "energy=1", "energy=0", "error=nan", "error=-1", "error=0,5", "auto=3"),
        *("budget=", "budget=0", "budget=1e6", "budget=20MB", "budget=-5M", "budget=0.0001k"),
        *("١٦", "9" * 5000, "budget=" + "9" * 5000),
    ],
)
def test_texts_that_are_no_rule(text: str) -> None:
    with pytest.raises(UsageError, match="--rank") as caught:
        parse_rank(text)
    assert "\n" not in str(caught.value)


def test_a_rank_above_the_largest() -> None:
    with pytest.raises(UsageError, match="32 exceeds --max-rank 16"):
        parse_rank("8,32", 16)
    with pytest.raises(UsageError, match="--max-rank 0: expected a whole number"):
        parse_rank("auto", 0)


def test_fixed_ranks_and_several() -> None:
    spectra = [spectrum_of([3.0, 2.0, 1.0]), spectrum_of([1.0]), spectrum_of([])]
    rule = SeveralRanks((2, 8))
    assert (rule.most, rule.fixed) == (8, True)
    assert rule.choose(spectra) == [3, 1, 0]
    assert rules(rule) == (("-r2", FixedRank(2)), ("-r8", FixedRank(8)))
    assert [each.choose(spectra) for _, each in rules(rule)] == [[2, 1, 0], [3, 1, 0]]
    assert rules(AutoRank(8)) == (("", AutoRank(8)),)


values = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=12).map(
    lambda found: sorted(found, reverse=True)
)
shapes = st.tuples(st.integers(12, 40), st.integers(12, 40))


@st.composite
def spectra(draw: st.DrawFn, rest: bool = False) -> Spectrum:
    behind = draw(st.floats(0.0, 10.0)) if rest else 0.0
    return spectrum_of(draw(values), rest=behind, shape=draw(shapes), name="w")


@settings(deadline=None)
@given(st.lists(spectra(), min_size=1, max_size=6), st.floats(0.01, 0.999))
def test_energy_is_met_and_the_rank_minimal(found: list[Spectrum], energy: float) -> None:
    for spectrum, rank in zip(found, EnergyRank(energy, 12).choose(found), strict=True):
        squares = [value**2 for value in spectrum.singular_values[0]]
        kept = [math.fsum(squares[:k]) / math.fsum(squares) for k in range(len(squares) + 1)]
        assert kept[rank] >= energy - CLOSE
        assert rank == 0 or kept[rank - 1] < energy + CLOSE


@settings(deadline=None)
@given(st.lists(spectra(), min_size=1, max_size=4), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_ranks_grow_with_what_is_asked_for(found: list[Spectrum], one: float, other: float) -> None:
    low, high = sorted((one, other))
    for rank, more in zip(
        EnergyRank(low, 12).choose(found), EnergyRank(high, 12).choose(found), strict=True
    ):
        assert rank <= more
    for more, rank in zip(
        ErrorRank(low, 12).choose(found), ErrorRank(high, 12).choose(found), strict=True
    ):
        assert rank <= more


@settings(deadline=None)
@given(spectra(), st.floats(0.05, 0.95))
def test_error_is_the_root_of_the_energy_left_out(spectrum: Spectrum, error: float) -> None:
    (rank,) = ErrorRank(error, 12).choose([spectrum])
    left_out = [math.sqrt(square / spectrum.delta_square) for square in spectrum.residual]
    assert left_out[rank] <= error * (1 + CLOSE)
    assert all(share > error * (1 - CLOSE) for share in left_out[:rank])


def test_energy_counts_the_factors_as_written() -> None:
    """A cast that loses a percent of the energy costs a rank."""
    exact = spectrum_of([3.0, 1.0, 0.1])
    cast = exact._replace(residual_squares=((1.1, 0.11, 0.09),))
    assert EnergyRank(0.99, 8).choose([exact]) == [2]
    assert EnergyRank(0.99, 8).choose([cast]) == [3]


def test_experts_share_a_rank_by_their_sum() -> None:
    """Most of the energy is in the first expert; 0.9 of the sum is reached at rank 2."""
    block = together([spectrum_of([10.0, 5.0, 1.0]), spectrum_of([1.0, 1.0, 1.0])])
    assert EnergyRank(0.9, 8).choose([block]) == [2]
    assert (125 + 2) / 129 > 0.9 > (100 + 1) / 129
    assert EnergyRank(0.99, 8).choose([block]) == [3]


def test_an_expert_that_is_equal_on_both_sides() -> None:
    block = together([spectrum_of([2.0, 1.0]), spectrum_of([])])
    assert block.available == 2
    assert block.residual == [5.0, 1.0, 0.0]
    assert EnergyRank(0.8, 8).choose([block]) == [1]


def test_what_lower_ranks_leave_out_follows_from_the_last() -> None:
    whole = spectrum_of([4.0, 2.0, 1.0], rest=0.5)
    last = whole._replace(optimal_squares=((0.5,),), residual_squares=((0.75,),))
    assert last.optimum == whole.optimum == [21.5, 5.5, 1.5, 0.5]
    assert last.residual == [21.5, 5.75, 1.75, 0.75]
    assert whole._replace(optimal_squares=((),)).optimum == whole.optimum


def test_energy_out_of_reach_names_the_module_and_the_option() -> None:
    found = [
        spectrum_of([3.0, 1.0], rest=2.0, name="layers.0.q_proj"),
        spectrum_of([3.0, 1.0], rest=8.0, name="layers.1.q_proj"),
        spectrum_of([3.0], name="layers.2.q_proj"),
    ]
    with pytest.raises(MismatchError) as caught:
        EnergyRank(0.95, 2).choose(found)
    message = str(caught.value)
    assert message.startswith(
        "--rank energy=0.95: rank 2 of layers.1.q_proj keeps 55.55% of ‖ΔW‖², and 1 other module"
    )
    # 18 in all, of which 0.9 may be left out: 7.1 more in triplets of at most 1 each.
    assert "--max-rank 10 might do, less will not" in message
    assert caught.value.exit_code == 4


def test_error_that_only_the_cast_prevents() -> None:
    spectrum = spectrum_of([3.0, 1.0], name="w")._replace(residual_squares=((1.1, 0.1),))
    with pytest.raises(MismatchError, match=r"error of 0\.1000; no rank .* of this --dtype"):
        ErrorRank(0.05, 2).choose([spectrum])


def test_a_complete_factorisation_needs_no_larger_rank() -> None:
    """The rank that would do is never said to exceed the smaller side."""
    spectrum = spectrum_of([1.0] * 4, rest=36.0, shape=(40, 60), name="w")
    with pytest.raises(MismatchError, match="--max-rank 40 might do"):
        EnergyRank(0.999, 4).choose([spectrum])


budgets = st.integers(80, 4000)


@settings(deadline=None)
@given(st.lists(spectra(rest=True), min_size=1, max_size=6), budgets)
def test_budgets_are_kept_and_used_up(found: list[Spectrum], budget: int) -> None:
    ranks = BudgetRank(budget, 12).choose(found)
    costs = [spectrum.parameters_per_rank for spectrum in found]
    spent = sum(rank * cost for rank, cost in zip(ranks, costs, strict=True))
    assert spent <= budget
    for spectrum, rank, cost in zip(found, ranks, costs, strict=True):
        squares = spectrum.gains
        has_more = rank < len(squares) and squares[rank] > 2.0**-40 * squares[0]
        assert not (has_more and spent + cost <= budget)


@settings(deadline=None)
@given(st.lists(spectra(rest=True), min_size=1, max_size=6), budgets)
def test_budgets_come_close_to_the_best_there_is(found: list[Spectrum], budget: int) -> None:
    """Cutting triplets to fill the budget exactly is an upper bound; greed misses one at most."""
    ranks = BudgetRank(budget, 12).choose(found)
    kept = math.fsum(
        math.fsum(spectrum.gains[:rank]) for spectrum, rank in zip(found, ranks, strict=True)
    )
    triplets = sorted(
        (
            (gain / s.parameters_per_rank, gain, s.parameters_per_rank)
            for s in found
            for gain in s.gains
        ),
        reverse=True,
    )
    bound, left = 0.0, float(budget)
    for density, gain, cost in triplets:
        bound += gain if cost <= left else density * left
        left = max(0.0, left - cost)
    assert kept >= (bound - max(gain for _, gain, _ in triplets)) * (1 - CLOSE)


@settings(deadline=None)
@given(st.lists(values, min_size=1, max_size=5), st.integers(1, 20))
def test_budgets_are_optimal_where_all_triplets_cost_the_same(
    found: list[list[float]], count: int
) -> None:
    modules = [spectrum_of(each, shape=(20, 30)) for each in found]
    ranks = BudgetRank(50 * count, 12).choose(modules)
    kept = math.fsum(math.fsum(m.gains[:r]) for m, r in zip(modules, ranks, strict=True))
    best = sorted((gain for m in modules for gain in m.gains), reverse=True)[:count]
    assert kept == pytest.approx(math.fsum(best), rel=1e-9)


@settings(deadline=None)
@given(st.lists(spectra(), min_size=1, max_size=5), budgets, budgets)
def test_a_larger_budget_keeps_no_less_at_equal_costs(
    found: list[Spectrum], one: int, other: int
) -> None:
    modules = [spectrum._replace(shape=(20, 20)) for spectrum in found]
    few, many = (BudgetRank(budget, 12).choose(modules) for budget in sorted((one, other)))
    assert all(a <= b for a, b in zip(few, many, strict=True))


def test_budgets_count_every_expert() -> None:
    """Rank 1 on two experts costs 2 · (20 + 30); the dense module is cheaper per energy kept."""
    block = together([spectrum_of([3.0], shape=(20, 30)), spectrum_of([3.0], shape=(20, 30))])
    dense = spectrum_of([4.0, 2.0], shape=(20, 30))
    assert BudgetRank(149, 8).choose([block, dense]) == [0, 2]
    assert BudgetRank(150, 8).choose([block, dense]) == [1, 1]
    assert BudgetRank(200, 8).choose([block, dense]) == [1, 2]
    assert BudgetRank(10**9, 8).choose([block, dense]) == [1, 2]


def test_a_budget_for_nothing() -> None:
    found = [spectrum_of([1.0], shape=(20, 30), name="small"), spectrum_of([9.0], name="large")]
    with pytest.raises(MismatchError, match="smallest module, small, takes 50 parameters"):
        BudgetRank(49, 8).choose(found)
    assert BudgetRank(50, 8).choose(found) == [1, 0]


def test_budgets_buy_no_rounding_of_singles() -> None:
    assert BudgetRank(10**6, 8).choose([spectrum_of([1.0, 1e-3, 1e-7])]) == [2]


def test_modules_that_are_equal_get_nothing() -> None:
    equal = spectrum_of([])
    for rule in (FixedRank(4), AutoRank(4), EnergyRank(0.9, 4), BudgetRank(10**6, 4)):
        assert rule.choose([equal]) == [0]
        assert rule.choose([]) == []

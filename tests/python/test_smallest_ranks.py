"""The search for the smallest rank that fits, without any matrix."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from loragraft.extraction.exact.smallest import Bracket, SmallestRanks

MOST = 64


def found(truths: list[int], guesses: list[int], lows: list[int] | None = None) -> tuple[list, int]:
    """The ranks found where those from a truth on fit, and the trials made."""
    lows = lows or [0] * len(truths)
    brackets = [Bracket(low, MOST, guess) for low, guess in zip(lows, guesses, strict=True)]
    search = SmallestRanks(brackets)
    trials = 0
    while pending := list(search.trials()):
        for number, rank in pending:
            assert brackets[number].low < rank <= MOST
            assert rank not in brackets[number].tried
            brackets[number].tell(rank, fits=rank >= truths[number])
            trials += 1
    return [bracket.high for bracket in brackets], trials


@given(st.data())
def test_it_is_the_smallest(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 6))
    several = st.lists(st.integers(1, MOST), min_size=count, max_size=count)
    truths, guesses = data.draw(several), data.draw(several)
    lows = [data.draw(st.integers(0, truth - 1)) for truth in truths]
    guesses = [max(guess, low + 1) for guess, low in zip(guesses, lows, strict=True)]
    ranks, trials = found(truths, guesses, lows)
    assert ranks == truths
    # Steps double both ways, and start afresh on the way back.
    assert trials <= count * 40


def test_two_trials_settle_a_good_guess() -> None:
    assert found([16] * 10, [16] * 10) == ([16] * 10, 20)


def test_a_bad_guess_follows_the_others() -> None:
    """One module is off: it tries what the others have found."""
    ranks, trials = found([16] * 10, [16] * 9 + [3])
    assert ranks == [16] * 10
    assert trials <= 18 + 4


def test_nothing_fits() -> None:
    ranks, trials = found([MOST + 1], [8])
    assert ranks == [None]
    assert trials <= 10


def test_what_is_ruled_out_is_not_tried() -> None:
    assert found([16], [16], [15]) == ([16], 1)

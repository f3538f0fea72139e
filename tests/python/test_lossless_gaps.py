"""Positions as gaps of 16 bits, and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loragraft.lossless.gaps import ESCAPE, START, decode, encode

GAPS = st.one_of(
    st.integers(0, 3),
    st.integers(ESCAPE - 2, ESCAPE + 2),
    st.integers(2 * ESCAPE - 2, 2 * ESCAPE + 2),
    st.integers(0, 1 << 21),
)


@given(gaps=st.lists(GAPS, max_size=40), cuts=st.lists(st.integers(0, 40), max_size=3))
def test_there_and_back(gaps: list[int], cuts: list[int]) -> None:
    """In any number of pieces, on either way."""
    positions = np.cumsum(np.array(gaps, np.int64) + 1) - 1
    last, pieces = START, []
    for part in np.split(positions, sorted(min(cut, len(gaps)) for cut in cuts)):
        pieces.append(encode(part, last))
        last = int(part[-1]) if part.size else last
    codes = np.concatenate(pieces)
    assert codes.dtype == np.uint16
    assert codes.size == sum(gap // ESCAPE + 1 for gap in gaps)
    assert np.array_equal(codes, encode(positions))
    found, reached = [], START
    for part in np.split(codes, sorted(min(cut, codes.size) for cut in cuts)):
        places, reached = decode(part, reached)
        found.append(places)
    assert np.array_equal(np.concatenate(found), positions)
    assert reached == (positions[-1] if gaps else START)


@pytest.mark.parametrize(
    ("positions", "codes"),
    [
        ([], []),
        ([0], [0]),
        ([0, 1, 2], [0, 0, 0]),
        ([5, 9], [5, 3]),
        ([0xFFFE], [0xFFFE]),
        ([0xFFFF], [0xFFFF, 0]),
        ([0x10000], [0xFFFF, 1]),
        ([2 * 0xFFFF], [0xFFFF, 0xFFFF, 0]),
        ([0, 0xFFFF], [0, 0xFFFE]),
        ([0, 0x10000], [0, 0xFFFF, 0]),
    ],
)
def test_codes(positions: list[int], codes: list[int]) -> None:
    assert encode(np.array(positions, np.int64)).tolist() == codes
    found, reached = decode(np.array(codes, np.uint16))
    assert found.tolist() == positions
    assert reached == (positions[-1] if positions else START)


def test_far_beyond_32_bits() -> None:
    codes = np.full(1 << 17, ESCAPE, np.uint16)
    found, reached = decode(codes, 1 << 40)
    assert found.size == 0
    assert reached == (1 << 40) + (1 << 17) * ESCAPE

"""Subspaces worked on before they are asked for: the same ones, in the order of the asking."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from lora_files import random_weights, write_checkpoint
from loragraft.architecture import take_inventory
from loragraft.checkpoint import open_checkpoint
from loragraft.errors import NonFiniteError
from loragraft.subspaces.ahead import Ahead
from loragraft.subspaces.cache import SubspaceCache
from loragraft.subspaces.finder import SubspaceFinder
from loragraft.subspaces.rank import SubspaceRank
from loragraft.tensor_reader import TensorReader

if TYPE_CHECKING:
    from pathlib import Path

    from loragraft.architecture import LinearModule

    Found = list[tuple[bytes, bytes]]


def test_results_and_errors_come_in_their_turn() -> None:
    def work(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        return number**2

    ahead = Ahead(work, 2)
    ahead.announce(range(8))
    for number in range(8):
        assert ahead.has_next(number)
        if number == 3:
            with pytest.raises(ValueError, match="three"):
                ahead.take()
        else:
            assert ahead.take() == number**2
    assert not ahead.has_next(8)
    ahead.close()


def test_only_a_few_are_worked_on_ahead() -> None:
    started: list[int] = []
    go = threading.Event()

    def work(number: int) -> int:
        started.append(number)
        go.wait(60)
        return number

    ahead = Ahead(work, 2)
    ahead.announce(range(100))
    go.set()
    assert ahead.take() == 0
    ahead.close()
    # Two in work and two ready, one more for the one that was taken.
    assert len(started) <= 5


def linears_of(directory: Path, *, bad: bool = False) -> list[LinearModule]:
    weights = random_weights(dtype="F32")
    weights["model.layers.1.mlp.down_proj.weight"] = weights["model.layers.0.mlp.down_proj.weight"]
    if bad:
        weights["model.layers.1.self_attn.q_proj.weight"][0, 0] = np.nan
    found = take_inventory(open_checkpoint(write_checkpoint(directory, weights))).linears
    return [linear for linear in found if ".layers." in linear.name]


def found_with(
    linears: list[LinearModule], cache: SubspaceCache, threads: int, *, expected: bool
) -> tuple[Found, int]:
    with (
        TensorReader() as reader,
        SubspaceFinder(reader, cache, SubspaceRank(4), threads=threads) as finder,
    ):
        if expected:
            finder.expect(linears)
        subspaces = [finder.find(linear) for linear in linears]
        return [(one.U.tobytes(), one.V.tobytes()) for one in subspaces], finder.computed


def test_what_is_found_does_not_depend_on_threads_or_announcements(tmp_path: Path) -> None:
    linears = linears_of(tmp_path / "model")
    first, computed = found_with(linears, SubspaceCache(None), 1, expected=False)
    assert computed == len(linears)
    for threads in (1, 2, 3):
        again, _ = found_with(linears, SubspaceCache(None), threads, expected=True)
        assert again == first


def test_equal_weights_are_worked_on_once_where_results_are_kept(tmp_path: Path) -> None:
    linears = linears_of(tmp_path / "model")
    for threads in (1, 3):
        cache = SubspaceCache(tmp_path / f"cache{threads}")
        _, computed = found_with(linears, cache, threads, expected=True)
        assert computed == len(linears) - 1
        assert cache.hits == 1
        assert not list(cache.directory.glob("*/*.tmp")) if cache.directory else False


def test_nan_is_named_when_its_turn_comes(tmp_path: Path) -> None:
    linears = linears_of(tmp_path / "model", bad=True)
    with pytest.raises(NonFiniteError, match=r"layers\.1\.self_attn\.q_proj"):
        found_with(linears, SubspaceCache(None), 2, expected=True)

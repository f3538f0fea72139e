"""The field: everybody who takes part in the race over the large pair."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from contenders import (
    FULL_SVD,
    LORAGRAFT,
    LORAGRAFT_AVX2,
    RANDOMIZED_SVD,
    SVD_LOWRANK,
)
from loragraft import native
from mergekit_environment import UnavailableError, mergekit
from process import ProcessFailedError, last_line
from race import Racer, absentee, entrant
from readers import CAT, MAPPED, cat, read_mapped

if TYPE_CHECKING:
    from bench import Bench
    from contenders import Contender
    from pairs import Pair

MERGEKIT: Final = "mergekit"
#: Whoever takes most of a minute for a single layer runs so often.
_SELDOM: Final = 2


@dataclass(frozen=True, slots=True)
class Starter:
    """Somebody in the race over the large pair, or over its first layer.

    Attributes:
        key: Name without a version.
        racer: The program on the pair.
        pair: What it runs on.
        start: Seconds in which it only starts; 0 where it runs on the large pair.
        judged_whole: Whether all its layers are judged, not the first one alone.
    """

    key: str
    racer: Racer
    pair: Pair
    start: float = 0.0
    judged_whole: bool = False


def field_of(bench: Bench, whole: Pair, one: Pair) -> list[Starter]:
    """Return who races.

    Args:
        bench: The run that this is part of.
        whole: The large pair.
        one: The one of a single layer, for whom the large pair would take an hour.
    """
    return [
        Starter(CAT, Racer(CAT, lambda: cat(whole)), whole),
        Starter(MAPPED, Racer(MAPPED, lambda: read_mapped(whole)), whole),
        _on_whole(bench, LORAGRAFT, whole, judged=True),
        _avx2(bench, whole),
        _on_whole(bench, SVD_LOWRANK, whole, judged=True),
        _scikit_learn(bench, one),
        _on_one(bench, FULL_SVD.name, FULL_SVD, one),
        _mergekit(bench, one),
    ]


def _on_whole(bench: Bench, contender: Contender, pair: Pair, *, judged: bool = False) -> Starter:
    return Starter(contender.name, entrant(bench, contender, pair), pair, judged_whole=judged)


def _on_one(bench: Bench, key: str, contender: Contender, pair: Pair) -> Starter:
    try:
        start = contender.start()
    except ProcessFailedError as error:
        return Starter(key, absentee(contender.name, last_line(error)), pair)
    return Starter(key, entrant(bench, contender, pair, most=_SELDOM), pair, start)


def _avx2(bench: Bench, pair: Pair) -> Starter:
    if "avx2" in native.available_isas():
        return _on_whole(bench, LORAGRAFT_AVX2, pair)
    name = LORAGRAFT_AVX2.name
    return Starter(name, absentee(name, "this processor has no AVX2"), pair)


def _scikit_learn(bench: Bench, pair: Pair) -> Starter:
    name = RANDOMIZED_SVD.name
    if find_spec("sklearn") is None:
        return Starter(name, absentee(name, "scikit-learn is not installed"), pair)
    return _on_one(bench, name, RANDOMIZED_SVD, pair)


def _mergekit(bench: Bench, pair: Pair) -> Starter:
    try:
        contender = mergekit(bench.out, bench.say)
        return _on_one(bench, MERGEKIT, contender, pair)
    except UnavailableError as error:
        return Starter(MERGEKIT, absentee(MERGEKIT, str(error)), pair)

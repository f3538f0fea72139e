"""What exact recovery found, as a report tells it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from loragraft.extraction.exact.outcome import Status
from loragraft.number_formats import WEIGHT_DTYPES
from loragraft.wording import counted, percent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from loragraft.extraction.choice import Choice
    from loragraft.extraction.exact.outcome import ModuleRecovery
    from loragraft.extraction.plan import ExtractionPlan

_SHOWN: Final = 3


def bit_exact(recovered: Mapping[int, ModuleRecovery]) -> float | None:
    """Return the share of weights that come out bit for bit; None unless all modules tell it."""
    if any(one.status is Status.PLAIN for one in recovered.values()):
        return None
    return _share(recovered)


def _share(recovered: Mapping[int, ModuleRecovery]) -> float | None:
    """Return the share of those modules' weights that are not written with plain factors."""
    weights = sum(one.weights for one in recovered.values())
    return sum(one.exact for one in recovered.values()) / weights if weights else None


def sentence(choice: Choice) -> str:
    """Say in how many modules the adapter was recovered; empty where nobody asked."""
    if not choice.recovered:
        return ""
    exact = [one for one in choice.recovered.values() if one.status is Status.EXACT]
    share = _share(choice.recovered)
    if not exact or share is None:
        return (
            "; no factors of these ranks give the weights of any module bit for bit: the adapter is"
            " that of a plain extraction"
        )
    whose = "the" if bit_exact(choice.recovered) is not None else "these"
    return (
        f"; {len(exact)} of {counted(len(choice.recovered), 'module')} recovered through their"
        f" rounding, {percent(share)} of {whose} weights bit for bit"
    )


def warnings(plan: ExtractionPlan, choice: Choice) -> list[str]:
    """Return what a reader should know of the modules that were not recovered, and of the ranks."""
    named = [(plan.modules[n].linear.name, one) for n, one in choice.recovered.items()]
    return [
        *_of_plain([(name, one.why) for name, one in named if one.status is Status.PLAIN]),
        *_of_near([(name, one) for name, one in named if one.status is Status.NEAR]),
        *_of_slack([one for _, one in named]),
        *_of_bytes(plan, choice),
        *_of_ranks([(name, one) for name, one in named if one.status is Status.EXACT]),
    ]


def _of_plain(plain: list[tuple[str, str]]) -> Iterator[str]:
    if plain:
        name, why = plain[0]
        yield (
            f"factors of a plain extraction in {counted(len(plain), 'module')}, such as"
            f" {name}: {why}"
        )


def _of_near(near: list[tuple[str, ModuleRecovery]]) -> Iterator[str]:
    if near:
        name, worst = max(near, key=lambda pair: pair[1].outside / pair[1].weights)
        yield (
            f"not wholly recovered: {counted(len(near), 'module')}, least of all {name}, where"
            f" {worst.outside} of {worst.weights} weights lie outside their rounding cells"
        )


def _of_slack(recovered: list[ModuleRecovery]) -> Iterator[str]:
    if any(one.slack for one in recovered):
        yield (
            "the change was rounded to bf16 before it was added, as PEFT merges a bf16 adapter:"
            " its weights are known less well, and a merge in float32 gives fewer of them bit for"
            " bit"
        )


def _of_bytes(plan: ExtractionPlan, choice: Choice) -> Iterator[str]:
    """Tell of formats that the search knows and no merge of this program writes."""
    dtypes = {
        entry.dtype
        for number, one in choice.recovered.items()
        if one.status is not Status.PLAIN
        for source in plan.modules[number].unit.tuned
        for entry in source.entries
    }
    odd = sorted(dtypes - set(WEIGHT_DTYPES))
    if odd:
        yield (
            f"TUNED stores weights as {' and '.join(odd)}, which merge does not write:"
            " the share of weights bit for bit is of sums rounded to that"
        )


def _of_ranks(exact: list[tuple[str, ModuleRecovery]]) -> Iterator[str]:
    unsure = [(name, one) for name, one in exact if not one.telling]
    if unsure:
        name, one = unsure[0]
        yield (
            f"the rank of {counted(len(unsure), 'module')} cannot be known: so few weights left"
            f" their rounding cells that other ranks fit as well, such as {name} of rank {one.rank}"
        )


def to_json(choice: Choice) -> dict[str, Any]:
    """Return the figures of all modules together."""
    counts = {status.value: 0 for status in Status}
    for one in choice.recovered.values():
        counts[one.status.value] += 1
    return {
        "modules": counts,
        "weights": sum(one.weights for one in choice.recovered.values()),
        "exact": sum(one.exact for one in choice.recovered.values()),
        "outside": sum(one.outside for one in choice.recovered.values()),
        "slack": max((one.slack for one in choice.recovered.values()), default=0.0),
        "rank_unknown": sum(
            one.status is Status.EXACT and not one.telling for one in choice.recovered.values()
        ),
    }

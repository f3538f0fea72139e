"""What kind of fine-tuning two checkpoints differ by, in words, and the figures behind them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from loragraft.extraction.curve import curves
from loragraft.extraction.places import listed, places
from loragraft.extraction.ranks.auto import common_ranks, own_rank, shared_rank
from loragraft.extraction.ranks.floor import rounding_floor
from loragraft.extraction.ranks.steps import steps_of
from loragraft.wording import counted, percent, span

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from loragraft.architecture.roles import Role
    from loragraft.extraction.curve import Curve
    from loragraft.extraction.ranks.spectrum import Spectrum
    from loragraft.extraction.ranks.steps import CommonStep, Steps

#: Two independent matrices of one distribution differ by √2 of their norm. Fine-tunes stay far
#: below this; where most layers exceed it, the one was hardly trained from the other.
UNRELATED: Final = 0.5
#: A LoRA of higher rank is rare; what exceeds this many triplets is rather a full fine-tune.
_RARE: Final = 64
#: A kind of modules is what this share of its modules are.
_MAJORITY: Final = 0.5


class Nature(StrEnum):
    """What two checkpoints differ by."""

    MERGED_LORA = "merged_lora"
    PARTLY_LORA = "partly_lora"
    FULL_FINE_TUNE = "full_fine_tune"
    BEYOND_RANK = "beyond_rank"
    LOW_RANK = "low_rank"
    WITHIN_ROUNDING = "within_rounding"
    UNRELATED = "unrelated"
    OTHER_TENSORS = "other_tensors"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Unit:
    """A linear layer, or one parameter of a block's experts, changed or not.

    Attributes:
        kind: Such as ``q_proj``.
        role: What it does in its block.
        layer: Block number, None outside the blocks.
        spectrum: Of its ΔW; its `delta_square` is 0 where both sides are equal.
        base_square: ‖W_base‖².
    """

    kind: str
    role: Role
    layer: int | None
    spectrum: Spectrum
    base_square: float

    @property
    def relative_change(self) -> float:
        """‖ΔW‖ / ‖W_base‖."""
        square = self.spectrum.delta_square
        if self.base_square <= 0.0:
            return math.inf if square > 0.0 else 0.0
        return math.sqrt(square / self.base_square)


class OtherTensors(NamedTuple):
    """Tensors that are no linear layers.

    Attributes:
        what: Such as ``norm`` or ``embedding``.
        changed: How many differ.
        equal: How many do not.
        largest_change: Largest relative change.
    """

    what: str
    changed: int
    equal: int
    largest_change: float


@dataclass(frozen=True, slots=True)
class Recognition:
    """The verdict.

    Attributes:
        nature: In one word.
        sentence: For people, without a capital or a full stop.
        evidence: The figures behind it, a sentence each.
        curves: Energy over rank by kind of module, the last of all modules.
    """

    nature: Nature
    sentence: str
    evidence: tuple[str, ...]
    curves: tuple[Curve, ...]

    def to_json(self, item: int) -> dict[str, Any]:
        """Return it as plain data for a report's extra fields.

        Args:
            item: Bytes per number of the factors.
        """
        return {
            "nature": self.nature.value,
            "sentence": self.sentence,
            "evidence": list(self.evidence),
            "curves": [curve.to_json(item) for curve in self.curves],
        }


class _Finding(NamedTuple):
    """What the spectrum of one changed unit tells.

    Attributes:
        unit: The unit.
        shared: The rank of the LoRA that was merged, None where none is recognised.
        own: The rank that its own spectrum tells.
        beyond: Rounding does not explain what the computed triplets leave out, or they are many
            and all stand above the floor.
        cut: All computed singular values stand above the floor, and there are more.
        step: The step that it shares.
    """

    unit: Unit
    shared: int | None
    own: int
    beyond: bool
    cut: bool
    step: CommonStep | None


def recognise(units: Sequence[Unit], others: Sequence[OtherTensors] = ()) -> Recognition:
    """Say what two checkpoints differ by.

    It is told from the leading singular values that were computed, from what they leave out, and
    from the rounding of the stored weights. The more were computed, the more can be told.

    Args:
        units: All linear layers that were compared, equal ones too.
        others: Of the other tensors.
    """
    changed = [unit for unit in units if unit.spectrum.available]
    found = curves([unit.spectrum for unit in changed])
    if not changed:
        return Recognition(*_without_layers(units, others), curves=())
    findings = _findings(changed)
    nature, sentence = _verdict(findings, units, found[-1])
    evidence = (*_evidence(findings, nature), *_context(units, others))
    return Recognition(nature, f"{sentence}{_beside(others, nature)}", evidence, found)


def _findings(changed: Sequence[Unit]) -> list[_Finding]:
    steps = [steps_of(unit.spectrum) for unit in changed]
    common = common_ranks([unit.kind for unit in changed], steps)
    return [_finding(*each) for each in zip(changed, steps, common, strict=True)]


def _finding(unit: Unit, steps: Steps, step: CommonStep | None) -> _Finding:
    available = unit.spectrum.available
    more = available < min(unit.spectrum.shape)
    cut = more and steps.above >= available
    return _Finding(
        unit=unit,
        shared=shared_rank(steps, step),
        own=own_rank(steps),
        beyond=more and ((cut and available >= _RARE) or not steps.explained[-1]),
        cut=cut,
        step=step,
    )


def _verdict(
    findings: Sequence[_Finding], units: Sequence[Unit], whole: Curve
) -> tuple[Nature, str]:
    kinds = _by_kind(findings)
    shared = {kind: rank for kind, of in kinds.items() if (rank := _shared_by_most(of))}
    beyond = [kind for kind, of in kinds.items() if kind not in shared and _most_are_beyond(of)]
    far = [finding for finding in findings if finding.unit.kind in beyond]
    if shared:
        lora = f"a merged LoRA of {_ranks_and_places(findings, shared, units)}"
        if not beyond:
            return Nature.MERGED_LORA, lora
        where = places([finding.unit for finding in far], units)
        return Nature.PARTLY_LORA, (
            f"{lora}; {where} changed by more than rank {_computed(far)} holds"
        )
    if _median([unit.relative_change for unit in units]) >= UNRELATED:
        return Nature.UNRELATED, "these differ in everything: not the same base"
    if 2 * len(far) > len(findings):
        return _high_rank(_computed(far), whole)
    return _low_rank(findings)


def _high_rank(computed: int, whole: Curve) -> tuple[Nature, str]:
    """Describe a change that the computed triplets do not hold."""
    if computed < _RARE:
        return Nature.BEYOND_RANK, (
            f"a change of more than rank {computed}, which keeps {percent(whole.energy[-1])}:"
            " a full fine-tune, or a LoRA of higher rank; --rank auto would tell more"
        )
    kept = dict(zip(whole.ranks, whole.energy, strict=True))
    told = sorted({rank for rank in (16, 64, computed) if rank in kept})
    parts = [f"rank {rank} keeps {percent(kept[rank])}" for rank in told]
    return Nature.FULL_FINE_TUNE, (
        f"a full fine-tune (or a LoRA of a rank above {computed}): {listed(parts)}"
    )


def _low_rank(findings: Sequence[_Finding]) -> tuple[Nature, str]:
    """Describe a change that rounding ends, at no rank in common."""
    computed = _computed(findings)
    if 2 * sum(finding.cut for finding in findings) > len(findings):
        return Nature.LOW_RANK, (
            f"a change of rank {computed} or more, of which rank {computed} keeps all but the"
            " rounding of the weights: perhaps a merged LoRA; --rank auto would tell its rank"
        )
    own = [finding.own for finding in findings]
    found = f"{span(min(own), max(own))} singular values, {_median(own):g} in the median,"
    if _median([_over_rounding(finding, 0) for finding in findings]) < 1.0:
        return Nature.WITHIN_ROUNDING, (
            f"a change smaller than the rounding of the weights, of which {found} stand out: a very"
            " light fine-tune, by a LoRA or in full"
        )
    return Nature.LOW_RANK, (
        f"a change of which {found} stand above the rounding of the weights: a light fine-tune, by"
        " a LoRA or in full, whose weaker directions the rounding has drowned"
    )


def _without_layers(
    units: Sequence[Unit], others: Sequence[OtherTensors]
) -> tuple[Nature, str, tuple[str, ...]]:
    evidence = tuple(_context(units, others))
    if not any(other.changed for other in others):
        return Nature.NOTHING, "nothing that was compared differs", evidence
    return (
        Nature.OTHER_TENSORS,
        f"no linear layer differs, only {_named(others)}",
        evidence,
    )


def _beside(others: Sequence[OtherTensors], nature: Nature) -> str:
    """Say what else changed, where that is news."""
    if nature is Nature.UNRELATED or not any(other.changed for other in others):
        return ""
    return f"; {_named(others)} changed too"


def _named(others: Sequence[OtherTensors]) -> str:
    return listed([counted(other.changed, other.what) for other in others if other.changed])


def _ranks_and_places(
    findings: Sequence[_Finding], shared: dict[str, int], units: Sequence[Unit]
) -> str:
    """Return ``rank 16 on attention and rank 8 on MLP``, the commonest rank first."""
    by_rank: dict[int, list[Unit]] = {}
    for finding in findings:
        rank = shared.get(finding.unit.kind)
        if rank and finding.shared == rank:
            by_rank.setdefault(rank, []).append(finding.unit)
    order = sorted(by_rank, key=lambda rank: -len(by_rank[rank]))
    return listed([f"rank {rank} on {places(by_rank[rank], units)}" for rank in order])


def _evidence(findings: Sequence[_Finding], nature: Nature) -> Iterator[str]:
    """Yield the figures behind a verdict on the linear layers."""
    for rank in sorted({finding.shared for finding in findings if finding.shared}):
        members = [finding for finding in findings if finding.shared == rank]
        sharp = _median([finding.step.sharpness for finding in members if finding.step])
        yield (
            f"{len(members)} of {counted(len(findings), 'changed module')} end at rank {rank}:"
            f" their spectra step down there {sharp:.1f} times as sharply as after it, and what it"
            f" leaves out is {_typically(members, rank)} of the rounding to be expected"
        )
    rest = [finding for finding in findings if finding.shared is None]
    if rest:
        own = [finding.own for finding in rest]
        others = "of the others" if len(rest) < len(findings) else "of the changed modules"
        yield (
            f"{span(min(own), max(own))} of {_computed(rest)} computed singular values {others}"
            f" stand above the rounding of the weights, {_median(own):g} in the median; what rank"
            f" {_computed(rest)} leaves out is {_typically(rest, _computed(rest))} of the"
            " rounding to be expected"
        )
    if nature is Nature.UNRELATED:
        yield "independent weights differ by about 1.41 times their norm"


def _context(units: Sequence[Unit], others: Sequence[OtherTensors]) -> Iterator[str]:
    """Yield what else was compared."""
    changed = [unit for unit in units if unit.spectrum.available]
    if changed:
        yield (
            f"the median relative change of {counted(len(changed), 'changed module')} is"
            f" {_median([unit.relative_change for unit in changed]):.2%}"
        )
    if len(changed) < len(units):
        yield f"{len(units) - len(changed)} of {counted(len(units), 'linear layer')} are equal"
    for other in others:
        if other.changed:
            total = counted(other.changed + other.equal, other.what)
            yield f"{other.changed} of {total} changed, by at most {other.largest_change:.2%}"


def _over_rounding(finding: _Finding, rank: int) -> float:
    """Return what a rank leaves out, over the rounding to be expected."""
    spectrum = finding.unit.spectrum
    floor = rounding_floor(spectrum.delta_square, spectrum.rounding_square)
    left_out = spectrum.optimum[min(rank, spectrum.available)]
    return left_out / floor if floor > 0.0 else math.inf


def _typically(findings: Sequence[_Finding], rank: int) -> str:
    return f"{_median([_over_rounding(finding, rank) for finding in findings]):.2f}"


def _by_kind(findings: Sequence[_Finding]) -> dict[str, list[_Finding]]:
    kinds: dict[str, list[_Finding]] = {}
    for finding in findings:
        kinds.setdefault(finding.unit.kind, []).append(finding)
    return kinds


def _shared_by_most(findings: Sequence[_Finding]) -> int | None:
    """Return the rank that most modules of a kind share, None without one."""
    ranks = [finding.shared for finding in findings if finding.shared]
    if len(ranks) < _MAJORITY * len(findings):
        return None
    return max(set(ranks), key=ranks.count)


def _most_are_beyond(findings: Sequence[_Finding]) -> bool:
    return sum(finding.beyond for finding in findings) > _MAJORITY * len(findings)


def _computed(findings: Sequence[_Finding]) -> int:
    return max(finding.unit.spectrum.available for finding in findings)


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    half = len(ordered) // 2
    return (ordered[half] + ordered[~half]) / 2

"""Chooses for every module between exact factors and plain ones."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

from loragraft.extraction.exact.cells import BF16_SLACK, format_of, is_ruled_out, why_no_cells
from loragraft.extraction.exact.outcome import TELLING, ModuleRecovery, Status
from loragraft.extraction.exact.smallest import Bracket, SmallestRanks
from loragraft.extraction.journal import Trial
from loragraft.extraction.ranks import AutoRank

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loragraft.extraction.choice import Choice
    from loragraft.extraction.exact.trials import Trials
    from loragraft.extraction.findings import Findings
    from loragraft.extraction.plan import ExtractionPlan

#: Modules that wider cells are tried on.
_SAMPLE: Final = 8
#: A module whose weights all lie in their cells but for so many is not rounded in another way.
_ASTRAY: Final = 1e-3
#: Below this root mean square of ΔW the squares of single precision underflow.
_LEAST: Final = 1e-12
_NONE: Final = "no rank up to {most} gives its weights"


class _Job(NamedTuple):
    """What a recovery works with."""

    plan: ExtractionPlan
    findings: Findings
    trials: Trials

    def is_ruled_out(self, trial: Trial) -> bool:
        """Say whether the spectrum alone tells that a search must fail."""
        found = self.findings.of_module(trial.number)
        return any(one.rank and is_ruled_out(one, trial.rank, trial.slack) for one in found)

    def why_not(self, number: int) -> str:
        """Return why nothing can be searched in a module; empty where it can."""
        unit = self.plan.modules[number].unit
        odd = [source for source in unit.tuned if format_of(source) is None]
        if odd:
            return why_no_cells(odd[0])
        changes = [one.delta_square for one in self.findings.of_module(number) if one.rank]
        weights = unit.parameters // len(unit.base)
        tiny = min(changes, default=0.0) < _LEAST * _LEAST * weights
        return "its change is too small for single precision" if tiny else ""

    def available(self, number: int) -> int:
        """Return how many triplets a module has."""
        return max(one.rank for one in self.findings.of_module(number))


def recover(
    plan: ExtractionPlan, findings: Findings, choices: Sequence[Choice], trials: Trials
) -> tuple[Choice, ...]:
    """Search exact factors of all adapters to write.

    Args:
        plan: What is to be done.
        findings: What the factorisation found.
        choices: The ranks that the rank rule gave; where that is ``auto``, they are where the
            search for the smallest rank that fits begins.
        trials: Runs the searches.

    Returns:
        The choices with what was recovered.
    """
    job = _Job(plan, findings, trials)
    slack = _slack(job, choices[-1])
    return tuple(_recovered(job, choice, slack) for choice in choices)


def _recovered(job: _Job, choice: Choice, slack: float) -> Choice:
    auto = isinstance(job.plan.options.rank, AutoRank)
    numbers = _changed(job, choice, auto=auto)
    outcomes = {n: ModuleRecovery(Status.PLAIN, why) for n in numbers if (why := job.why_not(n))}
    searchable = [number for number in numbers if number not in outcomes]
    if auto:
        outcomes |= _smallest(job, choice, searchable, slack)
    else:
        outcomes |= _fixed(job, [Trial(n, choice.ranks[n], slack) for n in searchable])
    ranks = list(choice.ranks)
    for number, outcome in outcomes.items():
        if outcome.status is not Status.PLAIN:
            ranks[number] = outcome.rank
    written = {number: outcomes[number] for number in sorted(outcomes) if ranks[number]}
    return choice._replace(ranks=tuple(ranks), recovered=written)


def _changed(job: _Job, choice: Choice, *, auto: bool) -> list[int]:
    """Return the modules to recover: with ``auto`` those too that seem to be rounding alone."""
    return [number for number, _ in job.findings.changed() if auto or choice.ranks[number]]


def _fixed(job: _Job, wanted: Sequence[Trial]) -> Mapping[int, ModuleRecovery]:
    possible = [trial for trial in wanted if not job.is_ruled_out(trial)]
    job.trials.run(possible)
    found = {trial.number: job.trials.outcome(trial) for trial in possible}
    for trial in wanted:
        why = f"rank {trial.rank} is too small for the change, whatever the factors"
        found.setdefault(trial.number, ModuleRecovery(Status.PLAIN, why, trial.rank))
    return found


def _smallest(
    job: _Job, choice: Choice, numbers: Sequence[int], slack: float
) -> Mapping[int, ModuleRecovery]:
    """Find the smallest rank that fits of every module, or the likeliest where many would."""
    brackets = [_bracket(job, number, choice.ranks[number], slack) for number in numbers]
    search = SmallestRanks(brackets)
    while pending := list(search.trials()):
        tried = [(at, Trial(numbers[at], rank, slack)) for at, rank in pending]
        job.trials.run(trial for _, trial in tried)
        for at, trial in tried:
            _tell(job, brackets[at], trial)
    found = {}
    for number, bracket in zip(numbers, brackets, strict=True):
        why = _NONE.format(most=bracket.most)
        found[number] = ModuleRecovery(Status.PLAIN, why, choice.ranks[number])
        # Where nothing fits, what nearly does at the rank of the others is the best there is.
        rank = bracket.high if bracket.high is not None else search.common
        if rank == 0:
            found[number] = ModuleRecovery(Status.EXACT)
        elif rank is not None and bracket.low < job.available(number):
            trial = Trial(number, min(rank, job.available(number)), slack)
            job.trials.run([trial])
            found[number] = job.trials.outcome(trial)
    return {**found, **_likeliest(job, choice, found)}


def _likeliest(
    job: _Job, choice: Choice, found: Mapping[int, ModuleRecovery]
) -> Mapping[int, ModuleRecovery]:
    """Return modules again whose smallest rank says little: at that of the others, or the rule's.

    Where few weights left their cells, ranks below the true one fit as well.
    """
    exact = {number: one for number, one in found.items() if one.status is Status.EXACT}
    telling = Counter(one.rank for one in exact.values() if one.telling)
    common = max(telling, key=lambda rank: (telling[rank], -rank)) if telling else 0
    wanted = {
        number: Trial(number, common if common >= one.rank else choice.ranks[number], one.slack)
        for number, one in exact.items()
        if not one.telling and max(common, choice.ranks[number]) > one.rank
    }
    job.trials.run(wanted.values())
    again = {number: job.trials.outcome(trial) for number, trial in wanted.items()}
    return {number: one for number, one in again.items() if one.status is Status.EXACT}


def _tell(job: _Job, bracket: Bracket, trial: Trial) -> None:
    """Take the outcome of a trial, and what it says of other ranks."""
    outcome = job.trials.outcome(trial)
    bracket.tell(trial.rank, fits=outcome.fits)
    if outcome.changed == 0:
        bracket.needs_nothing()
        return
    # Ranks that would fit whatever the change is need no trial.
    module = job.plan.modules[trial.number]
    matrices = sum(one.rank > 0 for one in job.findings.of_module(trial.number))
    sides = sum(module.linear.shape)
    most = trial.rank
    while outcome.changed >= TELLING * matrices * (most + 1) * (sides - most - 1):
        most += 1
    bracket.at_most(most)


def _bracket(job: _Job, number: int, guess: int, slack: float) -> Bracket:
    most = job.available(number)
    low = 0
    while low < most and job.is_ruled_out(Trial(number, low + 1, slack)):
        low += 1
    return Bracket(low, most, max(guess, low + 1))


def _slack(job: _Job, choice: Choice) -> float:
    """Return by how much cells are wider than their rounding: not at all, or by that of ΔW.

    A merge may round ΔW before it is added, as PEFT's of a bf16 adapter does. Where hardly any
    module fits as it is, and most of a sample do in wider cells, that is taken for the reason.
    """
    numbers = [n for n in _changed(job, choice, auto=False) if not job.why_not(n)]
    plain = [Trial(number, choice.ranks[number]) for number in numbers]
    wider = [trial._replace(slack=BF16_SLACK) for trial in plain]
    hopeful = [trial for trial in wider if not job.is_ruled_out(trial)]
    sample = hopeful[:: max(1, len(hopeful) // _SAMPLE)][:_SAMPLE]
    strict = [trial._replace(slack=0.0) for trial in sample]
    possible = [trial for trial in strict if not job.is_ruled_out(trial)]
    job.trials.run(possible)
    outcomes = [job.trials.outcome(trial) for trial in possible]
    found = [one for one in outcomes if one.status is not Status.PLAIN]
    if 2 * sum(one.outside <= _ASTRAY * one.weights for one in found) >= len(sample):
        return 0.0
    job.trials.run(sample)
    return BF16_SLACK if 2 * sum(job.trials.outcome(t).fits for t in sample) > len(sample) else 0.0

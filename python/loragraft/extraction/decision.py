"""What is written, decided when all spectra are known."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loragraft.extraction.choice import choose, require_something

if TYPE_CHECKING:
    from loragraft.extraction.choice import Choice
    from loragraft.extraction.computation import Progress
    from loragraft.extraction.factors import FactorStore
    from loragraft.extraction.findings import Findings
    from loragraft.extraction.plan import ExtractionPlan
    from loragraft.extraction.unfinished import Unfinished


def decide(
    plan: ExtractionPlan,
    findings: Findings,
    store: FactorStore,
    progress: Progress | None,
    unfinished: Unfinished | None = None,
) -> tuple[Choice, ...]:
    """Return the adapters to write, the one of the largest rank last, exact ones where asked for.

    Args:
        plan: What is to be done.
        findings: What the factorisation found.
        store: Holds its factors, and takes those of searches.
        progress: Called from time to time.
        unfinished: Searches of an earlier run; takes those of this one.

    Raises:
        MismatchError: A rank rule cannot be met.
        NothingToAdaptError: Nothing is kept of any module.
    """
    choices = choose(plan, findings)
    if plan.options.exact:
        # Starting points are arrays; nothing else here needs NumPy.
        from loragraft.extraction.exact.recovery import recover  # noqa: PLC0415
        from loragraft.extraction.exact.trials import Trials  # noqa: PLC0415

        trials = Trials(plan, findings, store, progress, unfinished)
        choices = recover(plan, findings, choices, trials)
    for choice in choices:
        require_something(plan, findings, choice)
    return choices

"""Which rank every module is written with, decided when all spectra are known."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from loragraft.errors import NothingToAdaptError
from loragraft.extraction.ranks import rules
from loragraft.extraction.spectra import spectrum

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loragraft.extraction.findings import Findings
    from loragraft.extraction.plan import ExtractionPlan, ModulePlan


class Choice(NamedTuple):
    """One adapter to write.

    Attributes:
        suffix: Of its directory's name, such as ``-r8``; empty where it is the only one.
        ranks: The rank of every module of the plan; 0 for one that is left out.
    """

    suffix: str
    ranks: tuple[int, ...]

    def written(self, plan: ExtractionPlan) -> Iterator[tuple[int, ModulePlan, int]]:
        """Yield (number, module, rank) of everything that goes into the file.

        Where one parameter of a block's experts is adapted its siblings are written too, as zeros
        if need be: loaders expect all or none.
        """
        blocks: dict[str, int] = {}
        for module, rank in zip(plan.modules, self.ranks, strict=True):
            if module.linear.experts and rank:
                path = module.linear.address.module
                blocks[path] = max(rank, blocks.get(path, 0))
        for number, module in enumerate(plan.modules):
            rank = self.ranks[number]
            if not rank and module.linear.experts:
                rank = blocks.get(module.linear.address.module, 0)
            if rank:
                yield number, module, rank


def choose(plan: ExtractionPlan, findings: Findings) -> tuple[Choice, ...]:
    """Return the adapters to write, the one of the largest rank last.

    Raises:
        MismatchError: A rank rule cannot be met.
        NothingToAdaptError: The rule keeps nothing of any module.
    """
    changed = dict(findings.changed())
    spectra = [spectrum(plan, findings, number) for number in changed]
    choices = []
    for suffix, rule in rules(plan.options.rank):
        ranks = [0] * len(plan.modules)
        for number, rank in zip(changed, rule.choose(spectra), strict=True):
            ranks[number] = rank
        if not any(ranks):
            raise NothingToAdaptError(
                f"--rank {plan.options.rank_text} keeps nothing of any of the {len(changed)} layers"
                " that differ: their change does not stand above the rounding of the stored"
                " weights; give a rank such as 16 to have one all the same"
            )
        choices.append(Choice(suffix, tuple(ranks)))
    return tuple(choices)

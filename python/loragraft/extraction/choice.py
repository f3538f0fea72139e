"""Which rank every module is written with, decided when all spectra are known."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from loragraft.architecture.roles import Role
from loragraft.errors import NothingToAdaptError
from loragraft.extraction.ranks import rules
from loragraft.extraction.spectra import spectrum

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from loragraft.extraction.exact.outcome import ModuleRecovery
    from loragraft.extraction.factors import FactorStore
    from loragraft.extraction.findings import Findings
    from loragraft.extraction.plan import ExtractionPlan, ModulePlan


class Written(NamedTuple):
    """A module as it is written.

    Attributes:
        number: Of the module in the plan.
        module: The module.
        rank: Of its factors in the file.
        kept: How many of their triplets are not zero.
    """

    number: int
    module: ModulePlan
    rank: int
    kept: int


class Choice(NamedTuple):
    """One adapter to write.

    Attributes:
        suffix: Of its directory's name, such as ``-r8``; empty where it is the only one.
        ranks: The rank of every module of the plan; 0 for one that is left out.
        recovered: What exact recovery gave, by module; empty where it was not asked for.
    """

    suffix: str
    ranks: tuple[int, ...]
    recovered: Mapping[int, ModuleRecovery] = MappingProxyType({})

    def store(self, plain: FactorStore) -> FactorStore:
        """Return the factors to write.

        Args:
            plain: Those of the truncated SVD.
        """
        exact = {number: one.factors for number, one in self.recovered.items() if one.factors}
        return plain.replaced(exact) if exact else plain

    def written(self, plan: ExtractionPlan) -> Iterator[Written]:
        """Yield everything that goes into the file.

        Loaders expect all of a block's experts, or none: where one parameter of them is adapted its
        siblings are written too, as zeros if need be. Experts that are modules of their own are
        stacked by PEFT, and looked for in every block: all are written, with the largest rank
        among them.
        """
        blocks: dict[str, int] = {}
        for module, rank in zip(plan.modules, self.ranks, strict=True):
            block = _block(module)
            if block:
                blocks[block] = max(rank, blocks.get(block, 0))
        for number, module in enumerate(plan.modules):
            block, kept = _block(module), self.ranks[number]
            rank = kept
            if block and (not kept or not module.linear.experts):
                rank = blocks[block]
            if rank:
                yield Written(number, module, rank, kept)


def _block(module: ModulePlan) -> str:
    """Return what experts a module is written together with; empty for other layers."""
    linear = module.linear
    if linear.experts:
        return linear.address.module
    if linear.role is not Role.EXPERTS or linear.address.parameter:
        return ""
    return Role.EXPERTS.value


def require_something(plan: ExtractionPlan, findings: Findings, choice: Choice) -> None:
    """Refuse to write an adapter of nothing.

    Raises:
        NothingToAdaptError: No module has a rank.
    """
    if not any(choice.ranks):
        layers = sum(1 for _ in findings.changed())
        raise NothingToAdaptError(
            f"--rank {plan.options.rank_text} keeps nothing of any of the {layers} layers"
            " that differ: their change does not stand above the rounding of the stored"
            " weights; give a rank such as 16 to have one all the same"
        )


def choose(plan: ExtractionPlan, findings: Findings) -> tuple[Choice, ...]:
    """Return the adapters to write, the one of the largest rank last.

    Raises:
        MismatchError: A rank rule cannot be met.
    """
    changed = dict(findings.changed())
    spectra = [spectrum(plan, findings, number) for number in changed]
    choices = []
    for suffix, rule in rules(plan.options.rank):
        ranks = [0] * len(plan.modules)
        for number, rank in zip(changed, rule.choose(spectra), strict=True):
            ranks[number] = rank
        choices.append(Choice(suffix, tuple(ranks)))
    return tuple(choices)

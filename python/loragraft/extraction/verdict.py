"""The sentence on top of an extraction's report, and its warnings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loragraft.architecture.families import family_of
from loragraft.architecture.modules import Role
from loragraft.extraction.findings import LARGE_CHANGE
from loragraft.extraction.recognition import UNRELATED
from loragraft.ggml.tensor_types import Q8_0
from loragraft.report.model import Outcome
from loragraft.wording import counted, percent

if TYPE_CHECKING:
    from loragraft.extraction.plan import ExtractionPlan
    from loragraft.report.model import ModuleReport, TensorReport


def verdict(modules: tuple[ModuleReport, ...], energy: float, error: float) -> str:
    """Return one sentence: how many modules, which rank, what share of the change they keep."""
    ranks = sorted({module.rank for module in modules})
    rank = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"
    keeps = "keeps" if len(ranks) == 1 else "keep"
    return (
        f"{rank} on {counted(len(modules), 'module')} {keeps} {percent(energy)} of the squared"
        f" change (relative error {error:.3g})"
    )


def warnings(
    plan: ExtractionPlan,
    tensors: tuple[TensorReport, ...],
    modules: tuple[ModuleReport, ...],
) -> list[str]:
    """Return what a reader should know before trusting the adapter."""
    return [
        *_unrelated(modules),
        *_capped(plan),
        *_tied_head(plan),
        *_single_experts(plan),
        *_large_changes(tensors),
        *_one_sided(tensors),
        *_opaque(tensors),
        *_quantised(tensors),
    ]


def _quantised(tensors: tuple[TensorReport, ...]) -> list[str]:
    """Tell of rounding to 8 bits, which is a hundred times that of bf16 and part of ΔW."""
    dtypes = [(row.dtype_base, row.dtype_tuned) for row in tensors]
    sides = [
        name
        for place, name in enumerate(("BASE", "TUNED"))
        if any(pair[place] == Q8_0 for pair in dtypes)
    ]
    if not sides:
        return []
    known = "rounding_floor in the report says how much"
    if len(sides) < 2:
        known = "a full-rank noise that no adapter should follow"
        if sides == ["TUNED"]:
            known = f"{known}; rounding_floor in the report says how much"
    return [
        f"{' and '.join(sides)} {'is' if len(sides) < 2 else 'are'} stored in {Q8_0}: the rounding"
        f" to 8 bits is part of the difference, {known}"
    ]


def _unrelated(modules: tuple[ModuleReport, ...]) -> list[str]:
    changes = sorted(m.delta_norm / m.weight_norm for m in modules if m.weight_norm > 0)
    if not changes:
        return []
    half = len(changes) // 2
    median = (changes[half] + changes[~half]) / 2
    if median < UNRELATED:
        return []
    return [
        f"the median change is {median:.2f} of the weights' own norm, far more"
        " than a fine-tune makes: BASE is probably not what TUNED was trained from"
    ]


def _tied_head(plan: ExtractionPlan) -> list[str]:
    """Warn of a head that loaders tie to the embedding whatever the file holds."""
    if not (plan.base.config or {}).get("tie_word_embeddings"):
        return []
    heads = [module.linear.name for module in plan.modules if module.linear.role is Role.HEAD]
    return [
        f"{name} is tied to the embedding (config.json): merging the adapter changes both"
        for name in heads
    ]


def _single_experts(plan: ExtractionPlan) -> list[str]:
    """Warn of experts one by one where PEFT knows them only together."""
    layouts = family_of(plan.base.config).experts
    single = any(module.linear.role is Role.EXPERTS for module in plan.modules)
    if plan.options.layout != "per-expert" or not single:
        return []
    if not layouts or all(layout.peft_reads_per_expert for layout in layouts):
        return []
    return [
        "PEFT does not load adapters of single experts for this model type: --moe-layout peft"
        " makes one that it does load"
    ]


def _capped(plan: ExtractionPlan) -> list[str]:
    if not plan.capped or not plan.options.rank.fixed:
        return []
    first = plan.capped[0]
    return [
        f"rank {plan.options.rank.most} exceeds {counted(len(plan.capped), 'module')}, which get"
        f" all they have instead: {first.linear.name} {first.linear.shape} has {first.rank}"
    ]


def _large_changes(tensors: tuple[TensorReport, ...]) -> list[str]:
    large = [
        tensor
        for tensor in tensors
        if tensor.outcome is Outcome.LEFT_OUT and (tensor.relative_change or 0.0) > LARGE_CHANGE
    ]
    if not large:
        return []
    worst = max(large, key=lambda tensor: tensor.relative_change or 0.0)
    return [
        f"{counted(len(large), 'tensor')} that the adapter leaves out changed by more than"
        f" {LARGE_CHANGE:.0%}, most of all {worst.name} ({worst.why}) by"
        f" {worst.relative_change:.1%}"
    ]


def _one_sided(tensors: tuple[TensorReport, ...]) -> list[str]:
    left_out = [t for t in tensors if t.outcome is Outcome.LEFT_OUT and t.relative_change is None]
    odd = [t for t in left_out if t.dtype_base is None or t.dtype_tuned is None]
    odd += [t for t in left_out if t.why.startswith("vocabulary")]
    if not odd:
        return []
    return [
        f"{counted(len(odd), 'tensor')} could not be compared, the first: {odd[0].name}"
        f" ({odd[0].why})"
    ]


def _opaque(tensors: tuple[TensorReport, ...]) -> list[str]:
    """Tell of tensors that changed in a format that is not computed with."""
    odd = [t for t in tensors if t.outcome is Outcome.LEFT_OUT and "not computed with" in t.why]
    if not odd:
        return []
    return [
        f"{counted(len(odd), 'tensor')} differ in formats that are not computed with, the first:"
        f" {odd[0].name} ({odd[0].why}); the figures are of the adapted modules alone"
    ]

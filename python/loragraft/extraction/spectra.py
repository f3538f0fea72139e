"""What the kernels found, as rank rules and the verdict see it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from loragraft.extraction.ranks.floor import rounding_of_pair
from loragraft.extraction.ranks.spectrum import Spectrum
from loragraft.extraction.recognition import OtherTensors, Unit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loragraft.extraction.findings import Findings
    from loragraft.extraction.plan import ExtractionPlan
    from loragraft.report.model import TensorReport

#: Reasons that say what a tensor is; the others say why it was not wanted.
_NOUNS: Final = frozenset(
    {"norm", "bias", "embedding", "router", "head", "vector", "scalar", "convolution"}
)


def spectrum(plan: ExtractionPlan, findings: Findings, number: int) -> Spectrum:
    """Return the spectrum of one module.

    Args:
        plan: What was to be done.
        findings: What was found.
        number: Of the module in the plan.
    """
    linear, unit = plan.modules[number].linear, plan.modules[number].unit
    found = findings.of_module(number)
    dtypes = [
        (base.entries[0].dtype, tuned.entries[0].dtype)
        for base, tuned in zip(unit.base, unit.tuned, strict=True)
    ]
    return Spectrum(
        singular_values=tuple(tuple(one.singular_values) for one in found),
        delta_squares=tuple(one.delta_square for one in found),
        rounding_squares=tuple(
            rounding_of_pair(one.rounding_square, *pair)
            for one, pair in zip(found, dtypes, strict=True)
        ),
        optimal_squares=tuple(tuple(one.optimal_squares) for one in found),
        residual_squares=tuple(tuple(one.residual_squares) for one in found),
        shape=linear.shape,
        further=tuple(tuple(one.further_values) for one in found),
        name=linear.name,
        group=linear.kind,
    )


def units(plan: ExtractionPlan, findings: Findings) -> tuple[Unit, ...]:
    """Return every module of a plan, equal ones too."""
    return tuple(
        Unit(
            module.linear.kind,
            module.linear.role,
            module.linear.layer,
            spectrum(plan, findings, number),
            math.fsum(one.base_square for one in findings.of_module(number)),
        )
        for number, module in enumerate(plan.modules)
    )


def other_tensors(
    plan: ExtractionPlan, tensors: Sequence[TensorReport]
) -> tuple[OtherTensors, ...]:
    """Return the tensors of other weights by what they are, such as ``norm``."""
    whats = {entry.name: _noun(why) for unit, why in plan.measured for entry in unit.entries}
    changes: dict[str, list[float]] = {}
    for tensor in tensors:
        if tensor.name in whats and tensor.relative_change is not None:
            changes.setdefault(whats[tensor.name], []).append(tensor.relative_change)
    return tuple(
        OtherTensors(what, sum(c > 0 for c in found), sum(c == 0 for c in found), max(found))
        for what, found in changes.items()
    )


def _noun(why: str) -> str:
    """Return what a tensor is that was left out for a reason."""
    # "router: not part of all-linear, ..." is told of a router.
    noun = why.partition(":")[0]
    return noun if noun in _NOUNS else "other tensor"

"""What is said of a transfer, module by module and as a whole."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from loragraft.transferring.report import Fate
from loragraft.wording import counted, percent

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from loragraft.transferring.report import TransferredModule

#: Relative change of a weight that is no larger than a quarter of the rounding of bfloat16.
NO_EFFECT: Final = 5e-4
#: A norm retained by projection of at most this many times what chance keeps is chance's.
_NEAR_CHANCE: Final = 1.5
#: Above it, chance keeps so much that a norm near it says nothing.
_TELLING: Final = 0.5


def near_no_op(
    effect: float | None, retained: float | None = None, chance: float | None = None
) -> str:
    """Return why an update does next to nothing; empty where it does something.

    Args:
        effect: ‖ΔW_t‖ / ‖W_t‖.
        retained: ‖ΔW_t‖ / ‖ΔW_s‖.
        chance: The same where the models share nothing.
    """
    if effect is not None and effect < NO_EFFECT:
        return f"the update is {effect:.2g} of the weight, below {NO_EFFECT:g}"
    if retained is None or chance is None or chance > _TELLING:
        return ""
    if retained > _NEAR_CHANCE * chance:
        return ""
    return (
        f"the norm kept, {percent(retained)} of the source's, is near the {percent(chance)} that"
        " chance keeps"
    )


def title_of(row: TransferredModule) -> str:
    """Return the name of a module, of a part of a fused one with its own."""
    return f"{row.name} ({row.part})" if row.part else row.name


def root_sum(values: Sequence[float]) -> float:
    """Return the root of the sum of squares."""
    return math.sqrt(math.fsum(value * value for value in values))


def total_share(shares: Iterable[float]) -> float:
    """Return the sum of shares; what is all but for the rounding of the parts is 1."""
    return round(math.fsum(shares), 12)


def whole_no_op(kept: Sequence[TransferredModule]) -> str:
    """Return why a whole adapter does next to nothing; empty where it does something."""
    weak = [module for module in kept if module.near_no_op]
    if len(weak) == len(kept) and kept:
        return f"in every module; in {title_of(weak[0])} {weak[0].near_no_op}"
    total = root_sum([module.delta_norm for module in kept])
    if weak and root_sum([module.delta_norm for module in weak]) ** 2 > 0.9 * total**2:
        return (
            f"in {modules_in(weak)} of {modules_in(kept)} modules, which hold nine tenths of its"
            f" squared norm; in {title_of(weak[0])} {weak[0].near_no_op}"
        )
    return ""


def fates(rows: Iterable[TransferredModule]) -> dict[str, Fate]:
    """Return what became of every module: copied where all of its parts that are kept were."""
    found: dict[str, set[Fate]] = {}
    for row in rows:
        found.setdefault(row.name, set()).add(row.outcome)
    order = (Fate.TRANSFERRED, Fate.COPIED, Fate.LEFT_OUT)
    return {name: next(fate for fate in order if fate in own) for name, own in found.items()}


def modules_in(rows: Iterable[TransferredModule]) -> int:
    """Return how many modules these rows are of; parts of a fused one have a row each."""
    return len({row.name for row in rows})


def verdict(modules: Sequence[TransferredModule], norm_share: float, no_op: str) -> str:
    """Return the sentence for the whole.

    Args:
        modules: All modules, or parts of fused ones, that had a source.
        norm_share: Share of the adapter's squared norm that reached the target.
        no_op: What `whole_no_op` says.
    """
    copied = [module for module in modules if module.outcome is Fate.COPIED]
    moved = [module for module in modules if module.outcome is Fate.TRANSFERRED]
    left = sum(fate is Fate.LEFT_OUT for fate in fates(modules).values())
    gone = sum(module.outcome is Fate.LEFT_OUT for module in modules)
    parts = []
    if copied:
        parts.append(f"{counted(modules_in(copied), 'module')} copied{_excess(copied)}")
    for method in dict.fromkeys(module.method for module in moved):
        own = [module for module in moved if module.method == method]
        if not any(module.source_norm for module in own):
            # No norm of a source: the method pairs no modules.
            parts.append(
                f"the whole adapter put into {counted(modules_in(own), 'module')} by {method}"
            )
            continue
        kept = root_sum([(module.retained or 0.0) * module.source_norm for module in own])
        kept /= root_sum([module.source_norm for module in own])
        parts.append(
            f"{counted(modules_in(own), 'module')} transferred by {method}{_excess(own)}, which"
            f" keeps {percent(kept)} of their norm"
        )
    if left:
        parts.append(f"{left} left out")
    elif gone:
        parts.append(f"{counted(gone, 'part')} of fused modules left out")
    text = ", ".join(parts)
    if any(module.source_norm for module in modules) or gone:
        text += f"; {percent(norm_share)} of the adapter's squared norm was placed"
    if no_op:
        text += f". This adapter is a near no-op: {no_op}"
    return text


def _excess(modules: Sequence[TransferredModule]) -> str:
    found = [module.excess for module in modules if module.excess is not None]
    if not found:
        return " (similarity undefined)"
    return f" (mean similarity {math.fsum(found) / len(found):.3f} above chance)"

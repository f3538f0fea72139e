"""What a reader should know before trusting a transferred adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from loragraft.transferring.methods.lora_x import BY_INDEX
from loragraft.transferring.verdict import modules_in, title_of
from loragraft.wording import counted, percent

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from loragraft.transferring.plan import TransferPlan
    from loragraft.transferring.report import TransferredModule

#: Times the norm of its source that no map between alike models gives an update.
_BLOWN_UP: Final = 10.0


def warnings_of(
    plan: TransferPlan, kept: Sequence[TransferredModule], cache_failure: str
) -> Iterator[str]:
    """Yield one sentence for everything that may surprise.

    Args:
        plan: What was to be done.
        kept: The modules that were written.
        cache_failure: Why subspaces could not be kept; empty where they could.
    """
    by_index = [row for row in kept if BY_INDEX in row.why]
    if by_index:
        yield f"{counted(modules_in(by_index), 'module')}: {BY_INDEX}"
    no_ops = [row for row in kept if row.near_no_op]
    if no_ops:
        yield (
            f"{modules_in(no_ops)} of {counted(modules_in(kept), 'module')} are near no-ops, such"
            f" as {title_of(no_ops[0])}: {no_ops[0].near_no_op}"
        )
    divided = [row for row in kept if row.divided_by > 1]
    if divided:
        sources = len({(row.source, row.source_part) for row in divided})
        most = max(row.divided_by for row in divided)
        yield (
            f"{counted(sources, 'source module')} feed several modules of the target, up to {most}"
            " each; every one gets its part, divided by their number"
        )
    undefined = [row for row in kept if row.excess is None and row.left is not None]
    if undefined:
        sides = (undefined[0].left, undefined[0].right)
        why = next((side.why for side in sides if side is not None and side.why), "")
        yield (
            f"{counted(modules_in(undefined), 'module')}: similarity is unknown ({why}), so nothing"
            " here tells whether source and target share anything"
        )
    yield from _blown_up(kept)
    yield from _joined(kept)
    yield from _left_behind(plan)
    if plan.options.scale is None:
        yield (
            "--scale match-norm gives every update the norm of its source, whatever it consists of:"
            " what chance has kept is blown up alike"
        )
    yield from _cut(kept)
    if cache_failure:
        yield f"subspaces could not be kept for the next run: {cache_failure}"


def _blown_up(kept: Sequence[TransferredModule]) -> Iterator[str]:
    larger = [row for row in kept if (row.retained or 0.0) > _BLOWN_UP]
    if larger:
        worst = max(larger, key=lambda row: row.retained or 0.0)
        yield (
            f"{counted(modules_in(larger), 'module')} come out more than {_BLOWN_UP:g} times as"
            f" large as their source, {title_of(worst)} {worst.retained:,.0f} times: a map that"
            " holds seldom does that, and the target may break: compare --scale match-norm"
        )


def _joined(kept: Sequence[TransferredModule]) -> Iterator[str]:
    larger = [row for row in kept if row.part and row.rank > row.source_rank]
    if larger:
        worst = max(larger, key=lambda row: row.rank)
        yield (
            f"{counted(modules_in(larger), 'fused module')} hold parts with a lora_A of their own"
            f" and have a larger rank for it, {worst.name} {worst.rank}; nothing was cut off"
        )


def _cut(kept: Sequence[TransferredModule]) -> Iterator[str]:
    lossy = [row for row in kept if row.rank_loss > 0.01]
    if lossy:
        worst = max(lossy, key=lambda row: row.rank_loss)
        yield (
            f"{counted(modules_in(lossy), 'module')} lose more than 1% of the squared norm to the"
            f" rank, {title_of(worst)} {percent(worst.rank_loss)}"
        )


def _left_behind(plan: TransferPlan) -> Iterator[str]:
    for one in plan.filters:
        if one.share > 0.01:
            yield (
                f"{one.option} leaves out {counted(one.modules, 'module')} with"
                f" {percent(one.share)} of the adapter's squared norm: {one.why}"
            )

"""Linear layers as the layers that they are made of: ``qkv_proj`` as queries, keys and values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from loragraft.architecture.families import family_of
from loragraft.architecture.fused import rows_of_parts
from loragraft.architecture.source_parts import rows_of, turned
from loragraft.weights.source import Stacked

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from loragraft.architecture.linear_module import LinearModule
    from loragraft.weights.source import Source


class Part(NamedTuple):
    """A linear layer, or some rows of one that are a layer of their own in other models.

    Attributes:
        whole: The layer as it is stored.
        linear: The part as a layer, named as a split model would name it; ``whole`` where the part
            is all of it.
        rows: The rows of ``whole`` that it is, block by block.
    """

    whole: LinearModule
    linear: LinearModule
    rows: tuple[range, ...]

    @property
    def is_whole(self) -> bool:
        """Whether it is all of the layer."""
        return self.linear is self.whole

    @property
    def title(self) -> str:
        """What it is called where its layer has been named; empty for all of a layer."""
        return "" if self.is_whole else self.linear.kind


def whole(linear: LinearModule) -> Part:
    """Return all of a layer."""
    return Part(linear, linear, (range(linear.shape[0]),))


def split(linears: Iterable[LinearModule], config: Mapping[str, Any] | None) -> tuple[Part, ...]:
    """Return the layers of a model with every fused one taken apart, in their order.

    A layer stays whole where its family does not say that it is fused, where its shape does not
    tell the parts, or where it is stored so that rows cannot be cut out.

    Args:
        linears: Layers of one model.
        config: Its config.json.
    """
    fused = family_of(config).fused_rows
    found: list[Part] = []
    for linear in linears:
        order = None if linear.experts or linear.address.parameter else fused(linear.name)
        rows = {} if order is None else rows_of_parts(order, linear.shape, config)
        try:
            parts = [_part(linear, kind, blocks) for kind, blocks in rows.items()]
        except ValueError:
            parts = []
        found += parts or [whole(linear)]
    return tuple(found)


def lie_alike(parts: Sequence[Part], others: Sequence[Part]) -> bool:
    """Say whether two layers of one place can be held side by side as they are stored.

    So can layers that are not fused, fused ones of one shape whose rows mean the same, and those
    of which nobody knows how the rows of one of them lie.

    Args:
        parts: All parts of a layer.
        others: All parts of another.
    """
    if len(parts) == 1 or len(others) == 1:
        return True
    rows = ([(part.linear.kind, part.rows) for part in side] for side in (parts, others))
    return next(rows) == next(rows) and parts[0].whole.shape == others[0].whole.shape


def _part(linear: LinearModule, kind: str, rows: tuple[range, ...]) -> Part:
    """Return some rows of a layer as a layer.

    Raises:
        ValueError: They cannot be cut out of the way it is stored.
    """
    (source,) = linear.matrices
    if linear.transposed:
        source = turned(source)
    blocks: tuple[Source, ...] = tuple(rows_of(source, one.start, len(one)) for one in rows)
    view = linear._replace(
        name=linear.name.removesuffix(linear.kind) + kind,
        kind=kind,
        shape=(sum(map(len, rows)), linear.shape[1]),
        transposed=False,
        matrices=(blocks[0] if len(blocks) == 1 else Stacked(blocks),),
    )
    return Part(linear, view, rows)

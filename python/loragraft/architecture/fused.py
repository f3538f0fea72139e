"""Linear layers that other models store as several: which of their rows are whose."""

from __future__ import annotations

from enum import StrEnum
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, Final

from loragraft.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Mapping

    #: Kind of a part, as a split model calls it -> its rows, a block after the other.
    RowsOfParts = Mapping[str, tuple[range, ...]]

_QKV: Final = ("q_proj", "k_proj", "v_proj")
_GATE_UP: Final = ("gate_proj", "up_proj")


class FusedRows(StrEnum):
    """The order of the rows of a fused layer."""

    #: All queries, all keys, all values.
    QKV = "qkv"
    #: For each head of keys: its queries, the key, the value.
    QKV_BY_GROUP = "qkv_by_group"
    #: All gates, then what they are multiplied with.
    GATE_UP = "gate_up"


def parse_fused(data: Mapping[str, Any], where: str) -> dict[str, FusedRows]:
    """Read the key ``fused`` of a family: suffix of a layer's path -> order of its rows.

    Raises:
        FormatError: It is no such table.
    """
    table = data.get("fused", {})
    known = [order.value for order in FusedRows]
    if not isinstance(table, dict) or not all(
        suffix and isinstance(order, str) and order in known for suffix, order in table.items()
    ):
        raise FormatError(
            f"{where}: key 'fused' must map non-empty strings to one of {', '.join(known)}"
        )
    return {suffix: FusedRows(order) for suffix, order in table.items()}


def rows_of_parts(
    order: FusedRows, shape: tuple[int, int], config: Mapping[str, Any] | None
) -> RowsOfParts:
    """Return the rows of every part, none where they cannot be told.

    The number of key and value heads follows from the shape, and what config.json says of it must
    not contradict: some families name it only where it matters.

    Args:
        order: Of the rows.
        shape: ``(out, in)`` of the fused layer.
        config: The model's config.json.
    """
    out, into = shape
    if order is FusedRows.GATE_UP:
        return _blocks(_GATE_UP, (out // 2, out // 2)) if out % 2 == 0 else {}
    inner = text_config(config)
    heads = _count(inner, "num_attention_heads", "n_head", "n_heads")
    size = _count(inner, "head_dim", "kv_channels") or (into // heads if heads else 0)
    if not size or out % size:
        return {}
    keys, odd = divmod(out // size - heads, 2)
    stated = _count(inner, "num_key_value_heads")
    if odd or keys < 1 or heads % keys or (stated and stated != keys):
        return {}
    if order is FusedRows.QKV:
        return _blocks(_QKV, (heads * size, keys * size, keys * size))
    group = (heads // keys * size, size, size)
    each = [_blocks(_QKV, group, start) for start in range(0, out, sum(group))]
    return {kind: tuple(block for one in each for block in one[kind]) for kind in _QKV}


def text_config(config: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return the part of config.json that describes the language model."""
    own = config or {}
    inner = own.get("text_config")
    return inner if isinstance(inner, dict) else own


def _blocks(
    kinds: tuple[str, ...], sizes: tuple[int, ...], start: int = 0
) -> dict[str, tuple[range, ...]]:
    bounds = pairwise(accumulate(sizes, initial=start))
    return {kind: (range(*bound),) for kind, bound in zip(kinds, bounds, strict=True)}


def _count(config: Mapping[str, Any], *keys: str) -> int:
    """Return the first of these keys that holds a positive integer, 0 where none does."""
    values = (config.get(key) for key in keys)
    return next((value for value in values if type(value) is int and value > 0), 0)

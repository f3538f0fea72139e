"""What the experts of a block must fulfil: none missing, shapes that fit, as many as configured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from loragraft.architecture.expert_layout import Projection
from loragraft.errors import FormatError
from loragraft.weights.stored_weight import StoredWeight
from loragraft.wording import quoted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loragraft.architecture.expert_group import ExpertGroup
    from loragraft.architecture.expert_layout import ExpertLayout, PerExpert
    from loragraft.tensor_entry import TensorEntry


def ready(tensor: StoredWeight | TensorEntry, dimensions: int) -> StoredWeight:
    """Return a tensor as a weight that has so many dimensions and is not empty.

    Raises:
        FormatError: It has others.
    """
    shape = tensor.shape
    if len(shape) != dimensions or 0 in shape:
        raise FormatError(
            f"tensor {quoted(tensor.name)}: got shape {list(shape)}, expected {dimensions}"
            " dimensions that are not empty"
        )
    return tensor if isinstance(tensor, StoredWeight) else StoredWeight.plain(tensor)


def complete(
    weights: Mapping[Projection, Mapping[int, StoredWeight]],
    layout: ExpertLayout,
    spec: PerExpert,
    path: str,
) -> dict[Projection, tuple[StoredWeight, ...]]:
    """Return the weights of every expert in order, after a check that none is missing.

    Args:
        weights: Projection -> expert -> weight.
        layout: Their layout.
        spec: Their names.
        path: Path above the experts' numbers, for messages.

    Raises:
        FormatError: One is missing, which is named.
    """
    names = dict(spec.names)
    last = max(expert for found in weights.values() for expert in found)
    found: dict[Projection, tuple[StoredWeight, ...]] = {}
    for kind in layout.projections:
        there = weights.get(kind, {})
        idle = bool(layout.idle) and kind is Projection.DOWN and bool(there)
        experts = range(max(there) + 1 if idle else last + 1)
        for expert in experts:
            if expert not in there:
                name = f"{path}.{expert}.{names[kind]}.weight"
                raise FormatError(
                    f"tensor {quoted(name)} is missing: the block has experts 0 to {last},"
                    " expected this of each; fetch the checkpoint again"
                )
        found[kind] = tuple(there[expert] for expert in _part(experts, layout, path))
    return found


def _part(experts: range, layout: ExpertLayout, path: str) -> range:
    part, parts = layout.share
    if len(experts) % parts:
        raise FormatError(
            f"{path}: got {len(experts)} experts, expected a multiple of {parts}: they belong to"
            f" {parts} modules"
        )
    size = len(experts) // parts
    return experts[part * size : (part + 1) * size]


def check_shapes(group: ExpertGroup) -> None:
    """Check that the matrices of all experts have the shapes that go together.

    Raises:
        FormatError: One does not fit the first expert's ``down``; it is named.
    """
    first = group.stored[Projection.DOWN][0]
    width, units = first.rows, first.columns
    for kind, matrices in group.stored.items():
        rows = {Projection.DOWN: width, Projection.GATE_UP: 2 * units}.get(kind, units)
        columns = units if kind is Projection.DOWN else width
        for expert, matrix in enumerate(matrices):
            if (matrix.rows, matrix.columns) != (rows, columns):
                raise FormatError(
                    f"tensor {quoted(matrix.entries[0].name)}: got {matrix.rows} x"
                    f" {matrix.columns} for {kind} of expert {expert}, as [out, in]; expected"
                    f" {rows} x {columns} beside {quoted(first.entries[0].name)}, which is {width}"
                    f" x {units}"
                )


def check_count(group: ExpertGroup, config: Mapping[str, Any] | None) -> None:
    """Check that there are as many experts as config.json says, of every projection.

    Raises:
        FormatError: There are more or fewer.
    """
    layout, there = group.layout, group.experts
    expected = configured(config, layout.count)
    if expected and there not in expected:
        told = " or ".join(map(str, sorted(expected)))
        raise FormatError(
            f"tensor {quoted(group.example)}: {group.module} has {there} experts, expected {told},"
            f" as config.json says ({', '.join(layout.count)})"
        )
    idle = configured(config, (layout.idle,)) if layout.idle else set()
    for kind, matrices in group.stored.items():
        if len(matrices) != there and len(matrices) - there not in idle:
            raise FormatError(
                f"tensor {quoted(group.names(kind)[0])}: got {len(matrices)} experts, expected"
                f" {there} as in {quoted(group.names(Projection.DOWN)[0])}"
            )


def configured(config: object, keys: tuple[str, ...]) -> set[int]:
    """Return the numbers that config.json, or a part of it, gives under any of the keys."""
    return {
        number
        for key, value in _items(config)
        if key in keys
        for number in (value if isinstance(value, list) else [value])
        if type(number) is int
    }


def _items(config: object) -> Iterator[tuple[str, object]]:
    if isinstance(config, Mapping):
        for key, value in config.items():
            yield key, value
            yield from _items(value)

"""The experts of a block as modules to adapt, in the layout that an adapter is written in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loragraft.architecture.address import Address
from loragraft.architecture.expert_layout import Projection
from loragraft.architecture.linear_module import LinearModule, layer_of
from loragraft.architecture.roles import Role
from loragraft.architecture.source_parts import turned
from loragraft.weights.source import Stacked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loragraft.architecture.expert_group import ExpertGroup
    from loragraft.weights.source import Source

PER_EXPERT = "per-expert"
LEGACY = "peft-legacy"


def expert_modules(group: ExpertGroup, layout: str) -> tuple[LinearModule, ...]:
    """Return the modules that adapt the experts of a block.

    Names, shapes and addresses depend on the family and the layout alone, not on how the files
    store the experts, so that two checkpoints pair.

    Args:
        group: The experts.
        layout: ``peft``: one module for each parameter of the model in memory; ``peft-legacy``:
            the same as PEFT up to 0.18 takes them; ``per-expert``: one module for each matrix of
            each expert.

    Raises:
        MismatchError: ``per-expert``, and gate and up cannot be told or taken apart.
    """
    if layout == PER_EXPERT:
        return tuple(_each(group))
    return tuple(_parameters(group, legacy=layout == LEGACY))


def _each(group: ExpertGroup) -> Iterator[LinearModule]:
    specs = group.layout.per_expert
    names = {kind: f"{kind}_proj" for kind in Projection} | dict(specs[0].names if specs else ())
    kinds = group.layout.projections
    matrices = {kind: group.matrices(kind) for kind in kinds}
    layer = layer_of(group.module)
    for number in range(max(map(len, matrices.values()))):
        for kind in kinds:
            if number >= len(matrices[kind]):
                continue
            matrix = matrices[kind][number]
            name = f"{group.single}.{group.first + number}.{names[kind]}"
            yield LinearModule(
                name=name,
                kind=_kind(kind),
                role=Role.EXPERTS,
                layer=layer,
                shape=(matrix.rows, matrix.columns),
                transposed=False,
                tensors=_of_matrix(matrix),
                matrices=(matrix,),
                experts=0,
                address=Address(name),
            )


def _parameters(group: ExpertGroup, *, legacy: bool) -> Iterator[LinearModule]:
    memory = group.layout.memory
    orders: dict[str, int] = {}
    for end, kind in memory.tensors.items():
        path = group.module.removesuffix(group.layout.module) + end
        module, _, parameter = path.rpartition(".")
        matrices = group.matrices(kind)
        experts = len(matrices)
        if memory.flat:
            matrices, experts = (_whole(matrices, kind),), 0
        order = orders.setdefault(module, 0)
        orders[module] += 1
        yield LinearModule(
            name=path,
            kind=_kind(kind),
            role=Role.EXPERTS,
            layer=layer_of(path),
            shape=(matrices[0].rows, matrices[0].columns),
            transposed=False,
            tensors=group.names(kind),
            matrices=matrices,
            experts=experts,
            address=Address(module, parameter, order, group.layout.swapped(legacy=legacy)),
        )


def _kind(projection: Projection) -> str:
    return f"experts.{projection}_proj"


def _of_matrix(matrix: Source) -> tuple[str, ...]:
    return tuple(entry.name for entry in matrix.entries)


def _whole(matrices: tuple[Source, ...], kind: Projection) -> Source:
    """Return the one matrix of a parameter that has the experts one below another."""
    down = kind is Projection.DOWN
    return Stacked(tuple(turned(matrix) if down else matrix for matrix in matrices))

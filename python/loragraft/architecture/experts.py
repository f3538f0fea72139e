"""The experts of a checkpoint: found by name, in whatever form they are stored.

A form is one tensor for every matrix of every expert, or one for a matrix of all experts, either
way round. Which names and which way round is the family's word (`expert_layout`); it is never
guessed from sizes. Of a family without such data only what config.json proves is taken.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

from loragraft.architecture.expert_checks import (
    check_count,
    check_shapes,
    complete,
    configured,
    ready,
)
from loragraft.architecture.expert_group import ExpertGroup
from loragraft.architecture.expert_layout import Orientation, Projection
from loragraft.architecture.naming import name_modules
from loragraft.architecture.source_parts import rows_of, turned
from loragraft.architecture.unknown_experts import proven_layouts
from loragraft.architecture.unloaded import why_unloaded
from loragraft.errors import FormatError, MismatchError
from loragraft.natural_order import natural_key
from loragraft.wording import quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from loragraft.architecture.expert_layout import ExpertLayout, PerExpert, StackedForm
    from loragraft.architecture.families import Family
    from loragraft.tensor_entry import TensorEntry
    from loragraft.weights.source import Source
    from loragraft.weights.stored_weight import StoredWeight

    Tensors = Mapping[str, StoredWeight | TensorEntry]
    Matrices = dict[Projection, tuple[Source, ...]]


class _Found(NamedTuple):
    """The tensors of the experts of one block, all in one form (None: a tensor per expert)."""

    block: str
    layout: ExpertLayout
    form: StackedForm | None
    weights: Mapping[Projection, tuple[StoredWeight, ...]]

    @property
    def path(self) -> str:
        """Path of the module, which only the renames of the family are missing from."""
        return _join(self.block, self.layout.module)


def find_experts(
    tensors: Tensors, family: Family, config: Mapping[str, Any] | None
) -> tuple[ExpertGroup, ...]:
    """Find the experts among the tensors of a checkpoint.

    Args:
        tensors: Name -> tensor, or the weight that it stands for where it is quantised; under the
            name that a plain tensor has: without ``_blocks``, and without the scales.
        family: The checkpoint's family.
        config: Content of config.json, None where there is none.

    Returns:
        One group for the experts of each block, in natural order. Blocks that the model does not
        load are left out. Experts that a family without ``experts`` stores one matrix at a time
        are plain linear layers, and left out too.

    Raises:
        FormatError: A tensor is missing, or shapes or numbers do not fit each other, the family's
            data or config.json.
        MismatchError: Stacked experts of a family without data, and config.json does not prove
            which way round they are.
    """
    loaded = {n: t for n, t in tensors.items() if why_unloaded(n, family, config) is None}
    layouts = family.experts or proven_layouts(loaded, config)
    found = [*_find_single(loaded, layouts), *_find_stacked(loaded, layouts)]
    names = name_modules(dict.fromkeys(item.path for item in found), family, config)
    groups: dict[str, ExpertGroup] = {}
    for item in found:
        module = names[item.path]
        group = _group(item, module, config)._replace(proven=bool(family.experts))
        if module in groups:
            raise FormatError(
                f"the experts of {module} are stored twice, in {quoted(groups[module].example)} and"
                f" in {quoted(group.example)}; expected one form: remove the other"
            )
        groups[module] = group
    return tuple(groups[module] for module in sorted(groups, key=natural_key))


def _join(block: str, rest: str) -> str:
    return f"{block}.{rest}" if block else rest


def _find_single(tensors: Tensors, layouts: tuple[ExpertLayout, ...]) -> Iterator[_Found]:
    """Yield the experts that are stored one matrix at a time."""
    for spec in dict.fromkeys(spec for layout in layouts for spec in layout.per_expert):
        for block, weights in _by_block(tensors, spec).items():
            path = _join(block, spec.module)
            for layout in layouts:
                if spec in layout.per_expert:
                    yield _Found(block, layout, None, complete(weights, layout, spec, path))


def _by_block(
    tensors: Tensors, spec: PerExpert
) -> dict[str, dict[Projection, dict[int, StoredWeight]]]:
    kinds = {name: kind for kind, name in spec.names}
    pattern = re.compile(
        rf"(?:(.+)\.)?{re.escape(spec.module)}\.([0-9]{{1,6}})"
        rf"\.({'|'.join(map(re.escape, kinds))})\.weight"
    )
    blocks: dict[str, dict[Projection, dict[int, StoredWeight]]] = {}
    for name, tensor in tensors.items():
        match = pattern.fullmatch(name)
        if match is not None:
            block = blocks.setdefault(match[1] or "", defaultdict(dict))
            block[kinds[match[3]]][int(match[2])] = ready(tensor, 2)
    return blocks


def _find_stacked(tensors: Tensors, layouts: tuple[ExpertLayout, ...]) -> Iterator[_Found]:
    """Yield the experts that are stored stacked, in any form that is known of them."""
    for layout in layouts:
        forms = {tuple(form.tensors): form for form in (layout.memory, *layout.stacked)}
        for form in forms.values():
            blocks: dict[str, dict[Projection, tuple[StoredWeight, ...]]] = defaultdict(dict)
            for name, end in _ends(tensors, form):
                weight = ready(tensors[name], 2 if form.flat else 3)
                block = name.removesuffix(end).removesuffix(".")
                blocks[block][form.tensors[end]] = (weight,)
            for block, weights in blocks.items():
                missing = [end for end, kind in form.tensors.items() if kind not in weights]
                if missing:
                    there = next(iter(weights.values()))[0].name
                    raise FormatError(
                        f"tensor {quoted(_join(block, missing[0]))} is missing: expected it beside"
                        f" {quoted(there)}; fetch the checkpoint again"
                    )
                yield _Found(block, layout, form, weights)


def _ends(tensors: Tensors, form: StackedForm) -> Iterator[tuple[str, str]]:
    """Yield the names of a form's tensors, and the ends that they are known by."""
    ends = tuple(form.tensors)
    dotted = tuple(f".{end}" for end in ends)
    for name in tensors:
        if name.endswith(dotted) or name in ends:
            yield name, next(end for end in ends if f".{name}".endswith(f".{end}"))


def _group(item: _Found, module: str, config: Mapping[str, Any] | None) -> ExpertGroup:
    layout, form, weights = item.layout, item.form, item.weights
    if form is None:
        stored = {k: tuple(each.matrices[0] for each in found) for k, found in weights.items()}
    else:
        stacks = {kind: found[0] for kind, found in weights.items()}
        stored = _cut(stacks, layout, config) if form.flat else _oriented(stacks, form)
    tensors = {
        kind: tuple(name for weight in found for name in weight.tensors)
        for kind, found in weights.items()
    }
    above = module.removesuffix(layout.module)
    single = above + (layout.per_expert[0].module if layout.per_expert else layout.module)
    interleaved = form is not None and form.interleaved
    first = layout.share[0] * len(stored[Projection.DOWN])
    group = ExpertGroup(module, single, layout, stored, interleaved, tensors, first)
    check_shapes(group)
    check_count(group, config)
    return group


def _oriented(weights: Mapping[Projection, StoredWeight], form: StackedForm) -> Matrices:
    """Return the matrices of stacked tensors as ``[out, in]``."""
    in_out = form.orientation is Orientation.IN_OUT
    if form.orientation is Orientation.EITHER:
        in_out = _is_in_out(weights)
    stored: Matrices = {}
    for kind, weight in weights.items():
        try:
            turn = in_out and not weight.out_in
            stored[kind] = tuple(turned(m) for m in weight.matrices) if turn else weight.matrices
        except ValueError as error:
            raise MismatchError(f"tensor {quoted(weight.name)}: {error}") from None
    return stored


def _is_in_out(weights: Mapping[Projection, StoredWeight]) -> bool:
    """Say which way round gate and up in one, and down, must be to fit each other.

    ``[2 units, width]`` and ``[width, units]`` fit only as they are: turned they would need
    ``units`` to be twice itself.
    """
    _, rows, columns = weights[Projection.GATE_UP].shape
    _, first, second = weights[Projection.DOWN].shape
    return rows == second and columns == 2 * first


def _cut(
    weights: Mapping[Projection, StoredWeight],
    layout: ExpertLayout,
    config: Mapping[str, Any] | None,
) -> Matrices:
    """Cut matrices that hold the experts one below another; down lies as ``[in, out]``."""
    stored: Matrices = {}
    for kind, weight in weights.items():
        rows = weight.shape[0]
        counts = configured(config, layout.count)
        if len(counts) != 1 or (count := next(iter(counts))) < 1 or rows % count:
            raise FormatError(
                f"tensor {quoted(weight.name)}: got {rows} rows for"
                f" {sorted(counts) or 'an unknown number of'} experts, expected config.json to give"
                f" one number of experts ({', '.join(layout.count)}) that divides them"
            )
        size = rows // count
        parts = [rows_of(weight.matrices[0], i * size, size) for i in range(count)]
        stored[kind] = tuple(turned(p) if kind is Projection.DOWN else p for p in parts)
    return stored

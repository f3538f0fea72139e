"""The inventory of a checkpoint: its linear layers, and why every other tensor is none."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from loragraft.architecture.address import Address
from loragraft.architecture.expert_modules import PER_EXPERT, expert_modules
from loragraft.architecture.experts import find_experts
from loragraft.architecture.families import family_of
from loragraft.architecture.linear_module import LinearModule, layer_of
from loragraft.architecture.naming import name_modules
from loragraft.architecture.roles import Role
from loragraft.architecture.unloaded import why_unloaded
from loragraft.errors import FormatError, MismatchError
from loragraft.ggml.tensor_types import Q8_0
from loragraft.number_formats import VALUE_DTYPES
from loragraft.weights.quantisation import find_quantised
from loragraft.weights.stored_weight import StoredWeight
from loragraft.wording import shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loragraft.architecture.expert_group import ExpertGroup
    from loragraft.architecture.families import Family
    from loragraft.checkpoint import Checkpoint

__all__ = ["STACKED_EXPERTS", "Inventory", "LinearModule", "Role", "take_inventory"]

#: Why a tensor that holds all experts of a block at once is not among the linear layers.
STACKED_EXPERTS: Final = "stacked experts"

_WEIGHT: Final = ".weight"
_EMBEDDING: Final = "embedding"
_PER_EXPERT: Final = re.compile(r"(^|\.)experts\.(expert_)?\d+(\.|$)")
_ROUTER: Final = re.compile(r"(^|\.)router(\.|$)")
_ATTENTION: Final = re.compile(r"(^|[._])(attn|\w*attention)(?=[._]|$)", re.IGNORECASE)
_MLP: Final = re.compile(r"(^|[._])(mlp|ffn|ff|feed_?forward|\w*dense\w*dense)(?=[._]|$)", re.I)
_NORM: Final = re.compile(r"norm|^ln(_|\d|$)", re.IGNORECASE)


class Inventory(NamedTuple):
    """Every tensor of a checkpoint, exactly once.

    Attributes:
        linears: What an adapter can be put on, in the checkpoint's order.
        others: Any other tensor's name -> why it is not adaptable, such as ``norm``.
        unknown_experts: Why its experts cannot be told; empty where they can, or there are none.
        paths: Paths in memory of all modules that have tensors, as far as these tell.
        embeddings: Matrices with a row for every token or position; they are among the others too.
        codes: Names of tensors that are no values by themselves: codes, and their scales.
    """

    linears: tuple[LinearModule, ...]
    others: Mapping[str, str]
    unknown_experts: str = ""
    paths: frozenset[str] = frozenset()
    embeddings: tuple[LinearModule, ...] = ()
    codes: frozenset[str] = frozenset()


def take_inventory(
    checkpoint: Checkpoint, layout: str = "peft", fallback: Mapping[str, Any] | None = None
) -> Inventory:
    """Sort the tensors of a checkpoint into linear layers, experts and the rest.

    Args:
        checkpoint: The checkpoint.
        layout: Which modules its experts are: ``peft``, ``peft-legacy`` or ``per-expert``.
        fallback: Used in place of a config.json that is not there.

    Raises:
        FormatError: Two tensors are the weight of the same module, experts are missing or do not
            fit each other, or a quantised weight is stored in a way that is not read.
    """
    config = checkpoint.config if checkpoint.config is not None else fallback
    family = family_of(config)
    stored = _stored_weights(checkpoint)
    unknown = ""
    modules: list[LinearModule] = []
    others: dict[str, str] = {}
    try:
        groups = find_experts({weight.name: weight for weight in stored}, family, config)
        modules, others = _experts(groups, layout)
    except MismatchError as error:
        unknown = str(error)
    except FormatError as error:
        raise FormatError(f"{shown(checkpoint.reference)}: {error}") from None
    taken = {name for module in modules for name in module.tensors} | set(others)
    weights: dict[str, StoredWeight] = {}
    for weight in stored:
        if taken.issuperset(weight.tensors):
            continue
        why = why_unloaded(weight.name, family, config) or _why_not_linear(weight, family)
        if why is None:
            weights[weight.name.removesuffix(_WEIGHT)] = weight
        else:
            others.update(dict.fromkeys(weight.tensors, why))
    names = name_modules(weights, family, config)
    modules += [_linear(names[path], weight, family) for path, weight in weights.items()]
    places = {name: place for place, name in enumerate(checkpoint.tensors)}
    modules.sort(key=lambda module: places[module.tensor])
    owners = {name.rpartition(".")[0] for name in others} - set(names)
    renamed = name_modules((*names, *owners), family, config, unique=False)
    paths = {module.address.module for module in modules} | {renamed[owner] for owner in owners}
    embeddings = tuple(
        _embedding(renamed[weight.name.removesuffix(_WEIGHT)], weight)
        for weight in stored
        if others.get(weight.name) == _EMBEDDING and _is_table(weight)
    )
    codes = {name for weight in stored if len(weight.tensors) > 1 for name in weight.tensors}
    return Inventory(
        tuple(modules), others, unknown, frozenset(paths), embeddings, frozenset(codes)
    )


def _is_table(weight: StoredWeight) -> bool:
    return len(weight.shape) == 2 and 0 not in weight.shape and weight.name.endswith(_WEIGHT)


def _embedding(name: str, weight: StoredWeight) -> LinearModule:
    """Return an embedding as the linear layer that it is to tokens as unit vectors."""
    tokens, width = weight.shape
    return LinearModule(
        name=name,
        kind=name.rpartition(".")[2],
        role=Role.EMBEDDING,
        layer=layer_of(name),
        shape=(width, tokens),
        transposed=True,
        tensors=weight.tensors,
        matrices=weight.matrices,
        experts=0,
        address=Address(name, embedding=True),
    )


def _stored_weights(checkpoint: Checkpoint) -> tuple[StoredWeight, ...]:
    """Return every tensor once, codes together with their scales."""
    quantised = find_quantised(checkpoint)
    if checkpoint.ggml is not None:
        # NumPy, for GGUF alone.
        from loragraft.weights.ggml_weights import find_ggml_weights  # noqa: PLC0415

        quantised |= find_ggml_weights(checkpoint)
    held = {name for weight in quantised.values() for name in weight.tensors}
    plain = (entry for name, entry in checkpoint.tensors.items() if name not in held)
    return (*quantised.values(), *map(StoredWeight.plain, plain))


def _experts(
    groups: Sequence[ExpertGroup], layout: str
) -> tuple[list[LinearModule], dict[str, str]]:
    """Return the modules of all experts, and the tensors of those that PEFT cannot reach."""
    modules: list[LinearModule] = []
    others: dict[str, str] = {}
    for group in groups:
        why = group.layout.unreachable
        if why and layout != PER_EXPERT:
            names = (name for held in group.tensors.values() for name in held)
            others.update(dict.fromkeys(names, why))
        else:
            modules += expert_modules(group, layout)
    return modules, others


def _linear(name: str, weight: StoredWeight, family: Family) -> LinearModule:
    rows, columns = weight.shape
    transposed = family.is_transposed(name)
    return LinearModule(
        name=name,
        kind=name.rpartition(".")[2],
        role=_role(name, family),
        layer=layer_of(name),
        shape=(columns, rows) if transposed else (rows, columns),
        transposed=transposed,
        tensors=weight.tensors,
        matrices=weight.matrices,
        experts=0,
        address=Address(name, "weight" if family.is_parameter(name) else ""),
    )


def _role(name: str, family: Family) -> Role:
    """Return the role: where the path settles it, else the family's word, else the path's."""
    if _PER_EXPERT.search(name):
        return Role.EXPERTS
    if _ROUTER.search(name):
        return Role.ROUTER
    role = family.role(name)
    if role is Role.HEAD and layer_of(name) is not None:
        role = None
    if role is not None:
        return role
    if _ATTENTION.search(name):
        return Role.ATTENTION
    return Role.MLP if _MLP.search(name) else Role.OTHER


def _why_not_linear(weight: StoredWeight, family: Family) -> str | None:
    """Return why a tensor is not the weight of a linear layer, None where it is one."""
    name, shape = weight.name, weight.shape
    module, _, last = name.rpartition(".")
    why = _why_not_number(weight) or _why_not_by_name(name, family)
    if why is not None:
        return why
    if len(shape) != 2 or 0 in shape:
        return _why_not_matrix(name, shape)
    if last != "weight" or not module:
        return STACKED_EXPERTS if "experts" in module.split(".") else "not a linear layer's weight"
    return family.why_refused(module)


def _why_not_number(weight: StoredWeight) -> str | None:
    dtype = weight.dtype
    if dtype in VALUE_DTYPES or dtype == Q8_0 or len(weight.tensors) > 1:
        return None
    if dtype.startswith("F"):
        return f"{dtype} is not among the formats computed with ({', '.join(VALUE_DTYPES)})"
    return f"not a floating-point weight ({dtype})"


def _why_not_by_name(name: str, family: Family) -> str | None:
    module, _, last = name.rpartition(".")
    if last == "bias" or last.endswith("_bias"):
        return "bias"
    if family.is_embedding(module) or family.is_embedding(name):
        return _EMBEDDING
    return "norm" if _is_norm(module) else None


def _why_not_matrix(name: str, shape: tuple[int, ...]) -> str:
    """Name what a tensor is that is no matrix with entries."""
    dimensions = len(shape)
    parts = name.split(".")
    if 0 in shape:
        return "empty"
    if dimensions < 2:
        return "vector" if dimensions else "scalar"
    if dimensions > 3 or any("conv" in part for part in parts[-2:]):
        return "convolution"
    if "experts" in parts or "block_sparse_moe" in parts:
        return STACKED_EXPERTS
    return f"{dimensions}-dimensional parameter"


def _is_norm(module: str) -> bool:
    """Say whether the last word of a path, numbers aside, is that of a normalisation."""
    words = [part for part in module.split(".") if not part.isdigit()]
    return bool(words) and _NORM.search(words[-1]) is not None

"""The inventory of a checkpoint: its linear layers, and why every other tensor is none."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from loragraft.architecture.address import Address
from loragraft.architecture.families import family_of
from loragraft.architecture.naming import name_modules
from loragraft.architecture.roles import Role
from loragraft.number_formats import WEIGHT_DTYPES
from loragraft.weights.source import matrix_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loragraft.architecture.families import Family
    from loragraft.checkpoint import Checkpoint, TensorEntry
    from loragraft.weights.source import Source

__all__ = ["STACKED_EXPERTS", "Inventory", "LinearModule", "Role", "take_inventory"]

#: Why a tensor that holds all experts of a block at once is not among the linear layers.
STACKED_EXPERTS: Final = "stacked experts"

_WEIGHT: Final = ".weight"
_BLOCK_WORDS: Final = frozenset({"layers", "h", "blocks", "block", "layer"})
_PER_EXPERT: Final = re.compile(r"(^|\.)experts\.\d+(\.|$)")
_ROUTER: Final = re.compile(r"(^|\.)router(\.|$)")
_ATTENTION: Final = re.compile(r"(^|[._])(attn|\w*attention)(?=[._]|$)", re.IGNORECASE)
_MLP: Final = re.compile(r"(^|[._])(mlp|ffn|ff|feed_?forward|\w*dense\w*dense)(?=[._]|$)", re.I)
_NORM: Final = re.compile(r"norm|^ln(_|\d|$)", re.IGNORECASE)


class LinearModule(NamedTuple):
    """A weight that an adapter can be put on: a linear layer, or one of each expert of a block.

    Attributes:
        name: Module path in memory, as PEFT names it; of the parameter where experts share one.
        kind: Last component of the path, such as ``q_proj``, or ``experts.down_proj``.
        role: What it does in its block.
        layer: Block number, None outside the blocks.
        shape: ``(out, in)`` of one matrix, whichever way round it is stored.
        transposed: The matrices are ``[in, out]``.
        tensors: Names of the tensors that it is made of, scales included.
        matrices: The weight, or those of the experts in their order.
        experts: How many experts there are; 0 for a layer of its own.
        address: How PEFT reaches it.
    """

    name: str
    kind: str
    role: Role
    layer: int | None
    shape: tuple[int, int]
    transposed: bool
    tensors: tuple[str, ...]
    matrices: tuple[Source, ...]
    experts: int
    address: Address

    @property
    def tensor(self) -> str:
        """Name of the first of its tensors."""
        return self.tensors[0]


class Inventory(NamedTuple):
    """Every tensor of a checkpoint, exactly once.

    Attributes:
        linears: The linear layers in the checkpoint's order.
        others: Any other tensor's name -> why it is not adaptable, such as ``norm``.
    """

    linears: tuple[LinearModule, ...]
    others: Mapping[str, str]


def take_inventory(checkpoint: Checkpoint) -> Inventory:
    """Sort the tensors of a checkpoint into linear layers and the rest, by name and shape.

    Raises:
        FormatError: Two tensors are the weight of the same module.
    """
    family = family_of(checkpoint.config)
    others: dict[str, str] = {}
    weights: dict[str, TensorEntry] = {}
    for name, entry in checkpoint.tensors.items():
        why = _why_not_linear(entry, family)
        if why is None:
            weights[name.removesuffix(_WEIGHT)] = entry
        else:
            others[name] = why
    names = name_modules(weights, family, checkpoint.config)
    linears = tuple(_linear(names[path], entry, family) for path, entry in weights.items())
    return Inventory(linears, others)


def _linear(name: str, entry: TensorEntry, family: Family) -> LinearModule:
    rows, columns = entry.shape
    transposed = family.is_transposed(name)
    return LinearModule(
        name=name,
        kind=name.rpartition(".")[2],
        role=_role(name, family),
        layer=_layer(name),
        shape=(columns, rows) if transposed else (rows, columns),
        transposed=transposed,
        tensors=(entry.name,),
        matrices=(matrix_of(entry),),
        experts=0,
        address=Address(name),
    )


def _role(name: str, family: Family) -> Role:
    """Return the role: where the path settles it, else the family's word, else the path's."""
    if _PER_EXPERT.search(name):
        return Role.EXPERTS
    if _ROUTER.search(name):
        return Role.ROUTER
    role = family.role(name)
    if role is Role.HEAD and _layer(name) is not None:
        role = None
    if role is not None:
        return role
    if _ATTENTION.search(name):
        return Role.ATTENTION
    return Role.MLP if _MLP.search(name) else Role.OTHER


def _layer(name: str) -> int | None:
    """Return the first integer that follows a word for the list of blocks."""
    parts = name.split(".")
    for word, number in pairwise(parts):
        if word in _BLOCK_WORDS and number.isascii() and number.isdigit():
            return int(number)
    return None


def _why_not_linear(entry: TensorEntry, family: Family) -> str | None:
    """Return why a tensor is not the weight of a linear layer, None where it is one."""
    module, _, last = entry.name.rpartition(".")
    why = _why_not_number(entry.dtype) or _why_not_by_name(entry.name, family)
    if why is not None:
        return why
    if len(entry.shape) != 2 or 0 in entry.shape:
        return _why_not_matrix(entry)
    if last != "weight" or not module:
        return STACKED_EXPERTS if "experts" in module.split(".") else "not a linear layer's weight"
    return family.why_refused(module)


def _why_not_number(dtype: str) -> str | None:
    if dtype in WEIGHT_DTYPES:
        return None
    if dtype.startswith("F"):
        return f"{dtype} is not among the formats computed with ({', '.join(WEIGHT_DTYPES)})"
    return f"not a floating-point weight ({dtype})"


def _why_not_by_name(name: str, family: Family) -> str | None:
    module, _, last = name.rpartition(".")
    if last == "bias" or last.endswith("_bias"):
        return "bias"
    if family.is_embedding(module) or family.is_embedding(name):
        return "embedding"
    return "norm" if _is_norm(module) else None


def _why_not_matrix(entry: TensorEntry) -> str:
    """Name what a tensor is that is no matrix with entries."""
    dimensions = len(entry.shape)
    parts = entry.name.split(".")
    if 0 in entry.shape:
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

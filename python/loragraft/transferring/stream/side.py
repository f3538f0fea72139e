"""One model as its residual stream sees it: who reads it, who writes it, through which gains."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from loragraft import native
from loragraft.architecture.parts import split
from loragraft.errors import MismatchError, NonFiniteError
from loragraft.resource_limits import check_address_space
from loragraft.subspaces.weight import dense, not_finite, oriented
from loragraft.transferring.stream.conventions import gain_offset, query_heads
from loragraft.weights.matrices import MatrixFactory
from loragraft.wording import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from loragraft.architecture import Inventory, LinearModule
    from loragraft.checkpoint import Checkpoint
    from loragraft.tensor_reader import TensorReader

    Array = NDArray[np.float64]
    Rows = NDArray[np.float32]

ATTENTION: Final = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP: Final = ("gate_proj", "up_proj", "down_proj")
#: Modules that write to the residual stream; the others read it.
WRITERS: Final = frozenset({"o_proj", "down_proj"})
_BEFORE: Final = "input_layernorm"
MIDDLE: Final = "post_attention_layernorm"
#: Where a block has one of these, the norm in the middle is that of the attention's output.
AROUND: Final = ("pre_feedforward_layernorm", "post_feedforward_layernorm")
#: Gains below this part of their root mean square are inverted as if they were that large.
_LEAST: Final = 1e-2


@dataclass(slots=True)
class Side:
    """One of the two models.

    Attributes:
        checkpoint: Its files.
        inventory: What it consists of.
        reader: Reads it.
        threads: To work with; None takes one per core.
    """

    checkpoint: Checkpoint
    inventory: Inventory
    reader: TensorReader
    threads: int | None = None
    _linears: Mapping[str, LinearModule] = field(init=False)
    _matrices: MatrixFactory = field(init=False, default_factory=lambda: MatrixFactory("auto"))

    def __post_init__(self) -> None:
        """Index the linear layers by name, fused ones by their parts."""
        check_address_space(native.resolve_threads(self.threads))
        parts = split(self.inventory.linears, self.checkpoint.config)
        self._linears = {part.linear.name: part.linear for part in parts}

    def siblings(self, linear: LinearModule, kinds: tuple[str, ...]) -> list[LinearModule]:
        """Return the modules of these kinds beside a module.

        Raises:
            MismatchError: One of them is not there.
        """
        parent = linear.name.removesuffix(linear.kind)
        missing = next((kind for kind in kinds if parent + kind not in self._linears), None)
        if missing is not None:
            raise MismatchError(f"{shown(self.checkpoint.reference)} has no {parent}{missing}")
        return [self._linears[parent + kind] for kind in kinds]

    def heads(self) -> int:
        """Return the number of query heads.

        Raises:
            MismatchError: config.json does not tell.
        """
        found = query_heads(self.checkpoint.config)
        if not found:
            name = shown(self.checkpoint.reference)
            raise MismatchError(f"config.json of {name} has no num_attention_heads")
        return found

    def gain(self, linear: LinearModule) -> Array | None:
        """Return the gain of the norm between a module and the residual stream, (d,).

        That is the norm before a module that reads, or, in blocks with norms on both sides as
        Gemma 2 has them, the one after a module that writes. None where nothing lies between.

        Raises:
            MismatchError: The block's norms are of no known kind.
        """
        prefix = re.split(rf"(?<=\.){linear.layer}\.", f".{linear.tensor}", maxsplit=1)[0][1:]
        prefix = f"{prefix}{linear.layer}."
        around = any(f"{prefix}{name}.weight" in self.checkpoint.tensors for name in AROUND)
        is_attention = linear.kind in ATTENTION
        if linear.kind in WRITERS:
            name = MIDDLE if is_attention else AROUND[1]
            return self._read(prefix + name, needed=around) if around else None
        if is_attention:
            # OLMo 2 has norms after its modules alone.
            return self._read(prefix + _BEFORE, needed=not around)
        return self._read(prefix + (AROUND[0] if around else MIDDLE), needed=not around)

    def _read(self, module: str, *, needed: bool) -> Array | None:
        entry = self.checkpoint.tensors.get(f"{module}.weight")
        name = shown(self.checkpoint.reference)
        if entry is None:
            if needed:
                raise MismatchError(f"{name} has no {module}.weight, the gain of its norm")
            return None
        if f"{module}.bias" in self.checkpoint.tensors:
            raise MismatchError(f"{module} of {name} has a bias, so it is no RMSNorm")
        weight = self.reader.rows(entry, 0, entry.shape[0]).astype(np.float64)
        return np.asarray(weight + gain_offset(self.checkpoint.config))

    def seen(self, linear: LinearModule) -> Rows:
        """Return a weight as rows in the residual stream, gains folded in, (inner, d).

        W G of a module that reads, (G W)ᵀ of one that writes.

        Raises:
            MismatchError: The block's norms are of no known kind.
            FormatError: A file cannot be read.
        """
        weight = dense(self.reader, linear)
        rows = weight.T if linear.kind in WRITERS else weight
        gain = self.gain(linear)
        return rows if gain is None else rows * gain.astype(np.float32)

    def unit_lines_times(self, linear: LinearModule, space: Rows) -> Rows:
        """Return the rows of `seen`, each of norm one, mapped by ``space`` (d, k).

        Raises:
            MismatchError: The block's norms are of no known kind.
            NonFiniteError: NaN or Inf in the weight.
            FormatError: A file cannot be read.
        """
        gain = self.gain(linear)
        scale = np.empty(0, np.float32) if gain is None else gain.astype(np.float32)
        matrix = self._matrices.make(oriented(linear))
        threads = native.resolve_threads(self.threads)
        try:
            return native.unit_lines_times(matrix, linear.kind in WRITERS, scale, space, threads)
        except NonFiniteError as error:
            raise not_finite(self.reader, linear) from error


def inverse(gain: Array) -> Array:
    """Return 1 / gain, bounded where a gain all but vanishes."""
    least = _LEAST * float(np.sqrt(np.mean(np.square(gain))))
    bounded = np.where(np.abs(gain) < least, np.copysign(least, gain), gain)
    return np.asarray(np.divide(1.0, bounded, out=np.zeros_like(bounded), where=bounded != 0.0))

"""An adapter in llama.cpp's format, matrix by matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from loragraft.adapter.gguf.factors import read_factors
from loragraft.architecture.expert_layout import Projection
from loragraft.errors import MismatchError, NonFiniteError
from loragraft.exporting.matrix_factors import MatrixFactors
from loragraft.ggml.family import family_for
from loragraft.ggml.naming import GgmlNames
from loragraft.ggml.row_order import order_of
from loragraft.ggml.tensor_types import Q8_0
from loragraft.wording import quoted, shown

if TYPE_CHECKING:
    from loragraft.adapter.gguf.reading import GgufAdapter, GgufPair
    from loragraft.architecture.linear_module import LinearModule
    from loragraft.architecture.modules import Inventory
    from loragraft.checkpoint import Checkpoint
    from loragraft.tensor_reader import TensorReader

_EXPERTS: Final = {
    Projection.GATE: "ffn_gate_exps",
    Projection.UP: "ffn_up_exps",
    Projection.DOWN: "ffn_down_exps",
}
_FUSED: Final = "ffn_gate_up_exps"


class GgufSource:
    """See `FactorSource`."""

    def __init__(
        self,
        adapter: GgufAdapter,
        base: Checkpoint,
        inventory: Inventory,
        reader: TensorReader,
    ) -> None:
        self._adapter = adapter
        self._base = base
        self._family = family_for(base.config)
        if self._family.arch != adapter.arch:
            raise MismatchError(
                f"{shown(adapter.path)}: an adapter for models of architecture"
                f" {quoted(adapter.arch)}, but {shown(base.reference)} is {self._family.arch}; use"
                " the model that the adapter was made for"
            )
        self._names = GgmlNames(self._family, base.config)
        self._reader = reader
        self._experts = _experts_of(inventory)
        self._asked: set[str] = set()

    def layer(self, linear: LinearModule) -> MatrixFactors | None:
        """Return the factors of a weight of its own, None where it is not adapted."""
        pair = self._adapter.pairs.get(f"{self._names.of(linear.name)}.weight")
        if pair is None or pair.experts:
            return None
        self._check(pair, pair.shape, linear.shape)
        found = self._read(pair, 0)
        order = order_of(self._family, linear.name, linear.shape, self._base.config)
        if order is None:
            return found
        if order.columns:
            return found._replace(a=found.a[:, order.inverse])
        return found._replace(b=found.b[order.inverse])

    def expert(self, layer: int | None, which: Projection, number: int) -> MatrixFactors | None:
        """Return the factors of the gate, up or down matrix of an expert."""
        pair = self._adapter.pairs.get(f"blk.{layer}.{_EXPERTS[which]}.weight")
        expected = self._experts.get((layer, which), (0, 0, 0))
        if pair is not None:
            self._check(pair, (pair.experts, *pair.shape), expected)
            return self._read(pair, number)
        pair = self._adapter.pairs.get(f"blk.{layer}.{_FUSED}.weight")
        if pair is None or which is Projection.DOWN:
            return None
        count, rows, columns = expected
        self._check(pair, (pair.experts, *pair.shape), (count, 2 * rows, columns))
        both = self._read(pair, number)
        half = len(both.b) // 2
        second = which is Projection.UP
        return both._replace(b=both.b[half * second : half * (1 + second)])

    def unused(self) -> tuple[str, ...]:
        """Return what nobody has asked for, by the names of the source."""
        return tuple(name for name in self._adapter.pairs if name not in self._asked)

    def _check(self, pair: GgufPair, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
        if found != expected:
            raise MismatchError(
                f"{shown(self._adapter.path)}: {pair.name} changes a weight of shape {found}, but"
                f" that of {shown(self._base.reference)} is {expected}; use the model that the"
                " adapter was made for"
            )

    def _read(self, pair: GgufPair, expert: int) -> MatrixFactors:
        self._asked.add(pair.name)
        b, a = read_factors(self._reader, pair, expert)
        for entry, values in ((pair.a, a), (pair.b, b)):
            if not np.isfinite(values).all():
                raise NonFiniteError(
                    f"{shown(entry.path)}: tensor {entry.name} holds NaN or Inf: expected finite"
                    " factors; the adapter is broken, make or download it again"
                )
        same = pair.a.dtype == pair.b.dtype != Q8_0
        return MatrixFactors(b, a, pair.scaling, pair.a.dtype if same else "F32")


def _experts_of(inventory: Inventory) -> dict[tuple[int | None, Projection], tuple[int, int, int]]:
    """Return how many experts a block has, and the shape of each gate, up and down matrix."""
    found: dict[tuple[int | None, Projection], tuple[int, int, int]] = {}
    for linear in inventory.linears:
        if not linear.kind.startswith("experts."):
            continue
        which = Projection(linear.kind.removeprefix("experts.").removesuffix("_proj"))
        (out, into), halves = linear.shape, [which]
        if which is Projection.GATE_UP:
            out, halves = out // 2, [Projection.GATE, Projection.UP]
        for half in halves:
            count, _, _ = found.get((linear.layer, half), (0, 0, 0))
            found[linear.layer, half] = count + max(1, linear.experts), out, into
    return found

"""An adapter in PEFT's format, matrix by matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loragraft.adapter.delta import DeltaReader
from loragraft.architecture.expert_layout import Projection
from loragraft.architecture.families import family_of
from loragraft.exporting.matrix_factors import MatrixFactors

if TYPE_CHECKING:
    from loragraft.adapter.placement import Placed, Placement
    from loragraft.architecture.linear_module import LinearModule
    from loragraft.checkpoint import Checkpoint
    from loragraft.tensor_reader import TensorReader


class PeftSource:
    """See `FactorSource`."""

    def __init__(self, placed: Placed, base: Checkpoint, reader: TensorReader) -> None:
        layouts = family_of(base.config).experts
        self._interleaved = bool(layouts) and layouts[0].memory.interleaved
        self._reader = DeltaReader(reader)
        self._layers: dict[str, Placement] = {}
        self._experts: dict[tuple[int | None, str], list[Placement]] = {}
        for one in placed.placements:
            if one.linear.kind.startswith("experts."):
                self._experts.setdefault((one.linear.layer, one.linear.kind), []).append(one)
            else:
                self._layers[one.linear.name] = one
        self._numbers = {
            one.linear.name: number
            for found in self._experts.values()
            for one in found
            for number in [_number(one.linear)]
        }
        self._asked: set[str] = set()

    def layer(self, linear: LinearModule) -> MatrixFactors | None:
        """Return the factors of a weight of its own, None where it is not adapted."""
        found = self._layers.get(linear.name)
        return None if found is None else self._read(found, 0)

    def expert(self, layer: int | None, which: Projection, number: int) -> MatrixFactors | None:
        """Return the factors of the gate, up or down matrix of an expert."""
        for one in self._experts.get((layer, f"experts.{which}_proj"), ()):
            if one.linear.experts:
                return self._read(one, number)
            if self._numbers[one.linear.name] == number:
                return self._read(one, 0)
        for one in self._experts.get((layer, f"experts.{Projection.GATE_UP}_proj"), ()):
            if which is not Projection.DOWN:
                both = self._read(one, number)
                return both._replace(b=both.b[self._half(which, len(both.b))])
        return None

    def unused(self) -> tuple[str, ...]:
        """Return what nobody has asked for, by the names of the source."""
        every = [
            *self._layers.values(),
            *(one for found in self._experts.values() for one in found),
        ]
        return tuple(one.module.name for one in every if one.module.name not in self._asked)

    def _read(self, one: Placement, expert: int) -> MatrixFactors:
        module = one.module
        self._asked.add(module.name)
        delta = self._reader.delta(one, expert, transposed=False)
        same = module.lora_A.dtype == module.lora_B.dtype
        dtype = module.lora_A.dtype if same else "F32"
        return MatrixFactors(delta.left, delta.right, delta.scaling, dtype)

    def _half(self, which: Projection, rows: int) -> slice:
        second = which is Projection.UP
        if self._interleaved:
            return slice(int(second), None, 2)
        return slice(rows // 2 * second, rows // 2 * (1 + second))


def _number(linear: LinearModule) -> int:
    """Return the number of the expert that a module of one expert belongs to."""
    numbers = [part for part in linear.name.split(".") if part.isdigit()]
    return int(numbers[-1]) if numbers else 0

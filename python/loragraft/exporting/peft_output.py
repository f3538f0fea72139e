"""Writes an adapter in PEFT's format out of single matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from loragraft.adapter.narrow import narrow
from loragraft.adapter.packing import Packing
from loragraft.adapter.peft_config import (
    LAYOUT_KEY,
    TENSORS_FILE,
    WrittenModule,
    adapter_config,
    keys_of,
    task_type,
)
from loragraft.architecture.expert_layout import Projection
from loragraft.architecture.families import family_of
from loragraft.exporting.matrix_factors import joined
from loragraft.number_formats import DTYPES
from loragraft.safetensors_writer import SafetensorsWriter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np

    from loragraft.architecture.linear_module import LinearModule
    from loragraft.architecture.modules import Inventory
    from loragraft.checkpoint import Checkpoint
    from loragraft.destination import Destination
    from loragraft.exporting.matrix_factors import FactorSource, MatrixFactors

_PREFIX: Final = "experts."


class OutputModule(NamedTuple):
    """A module that is written.

    Attributes:
        linear: The module.
        rank: The largest of its matrices.
        scaling: Of all of them.
        folded: They have several, which are in B.
        dtype: Of both factors.
    """

    linear: LinearModule
    rank: int
    scaling: float
    folded: bool
    dtype: str

    @property
    def width(self) -> int:
        """Rows of lora_A."""
        return self.rank * max(1, self.linear.experts)


class PeftOutput:
    """An adapter in PEFT's format, of what a source has for a base."""

    def __init__(
        self, source: FactorSource, base: Checkpoint, inventory: Inventory, layout: str
    ) -> None:
        """Look at all factors once.

        Args:
            source: Has them.
            base: What they are for.
            inventory: Of the base, in the layout.
            layout: Of the experts.
        """
        self._source = source
        self._base = base
        self._inventory = inventory
        self._layout = layout
        layouts = family_of(base.config).experts
        self._interleaved = bool(layouts) and layouts[0].memory.interleaved
        found = map(self._module, (*inventory.linears, *inventory.embeddings))
        self.modules = tuple(module for module in found if module is not None)

    def write(self, destination: Destination, dtype: str) -> int:
        """Write the tensors; returns how many bytes they take."""
        keys = keys_of(module.linear.address for module in self.modules)
        layout = []
        for module in self.modules:
            out, into = _peft_shape(module.linear)
            code = module.dtype if dtype == "auto" else dtype
            key_a, key_b = keys[module.linear.address]
            layout += [(key_a, code, (module.width, into)), (key_b, code, (out, module.width))]
        notes = {"format": "pt"}
        if any(module.linear.experts for module in self.modules):
            notes[LAYOUT_KEY] = self._layout
        with SafetensorsWriter(destination.file(TENSORS_FILE), layout, notes) as writer:
            for module in self.modules:
                code = module.dtype if dtype == "auto" else dtype
                pair = self._packed(module, code)
                for key, values in zip(keys[module.linear.address], pair, strict=True):
                    writer.write(key, values)
            return writer.nbytes

    def config(self) -> dict[str, Any]:
        """Return adapter_config.json."""
        written = [
            WrittenModule(
                module.linear.name,
                module.rank,
                module.scaling * module.rank,
                module.linear.transposed and not module.linear.address.embedding,
                module.linear.address,
            )
            for module in self.modules
        ]
        rank = max(module.rank for module in written)
        common = next(module.alpha for module in written if module.rank == rank)
        family = family_of(self._base.config)
        return adapter_config(
            written,
            base_model=self._base.reference,
            rank=rank,
            alpha=common,
            all_linear_names=self._inventory.paths,
            task_type=task_type(self._base.config),
            has_experts=bool(family.experts),
            knows_all=not family.splits,
        )

    def _module(self, linear: LinearModule) -> OutputModule | None:
        found = [one for one in self._matrices(linear) if one is not None]
        if not found:
            return None
        scalings, dtypes = {one.scaling for one in found}, {one.dtype for one in found}
        folded = len(scalings) > 1
        return OutputModule(
            linear,
            max(len(one.a) for one in found),
            1.0 if folded else scalings.pop(),
            folded,
            "F32" if folded or len(dtypes) > 1 else dtypes.pop(),
        )

    def _matrices(self, linear: LinearModule) -> Iterator[MatrixFactors | None]:
        if not linear.kind.startswith(_PREFIX):
            yield self._source.layer(linear)
            return
        which = Projection(linear.kind.removeprefix(_PREFIX).removesuffix("_proj"))
        numbers: Sequence[int] = range(linear.experts)
        if not linear.experts:
            numbers = [int([part for part in linear.name.split(".") if part.isdigit()][-1])]
        for number in numbers:
            if which is not Projection.GATE_UP:
                yield self._source.expert(linear.layer, which, number)
                continue
            gate, up = (
                self._source.expert(linear.layer, half, number)
                for half in (Projection.GATE, Projection.UP)
            )
            yield joined(gate, up, rows=linear.shape[0] // 2, interleaved=self._interleaved)

    def _packed(
        self, module: OutputModule, code: str
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        linear, storage = module.linear, DTYPES[code].storage
        packing = Packing(
            max(1, linear.experts),
            module.rank,
            linear.shape,
            storage,
            swapped=linear.address.swapped,
        )
        for number, one in enumerate(self._matrices(linear)):
            if one is not None:
                own = one.folded if module.folded else one
                b, a = (narrow(values, code, linear.name) for values in (own.b, own.a))
                packing.put(number, b, a)
        return packing.lora_a, packing.lora_b


def _peft_shape(linear: LinearModule) -> tuple[int, int]:
    return linear.shape[::-1] if linear.address.swapped else linear.shape

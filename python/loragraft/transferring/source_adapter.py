"""The adapter that is to be transferred, on the model it was made for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from loragraft.adapter.delta import DeltaReader
from loragraft.adapter.peft import read_adapter
from loragraft.adapter.peft_config import CONFIG_FILE
from loragraft.adapter.placement import place_adapter
from loragraft.architecture.parts import split, whole
from loragraft.architecture.roles import Role
from loragraft.errors import MismatchError
from loragraft.input_file import read_bytes
from loragraft.json_text import parse_object
from loragraft.transferring.joining import RowFactors, taken
from loragraft.transferring.update import Update
from loragraft.wording import counted, quoted, shown

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from loragraft.adapter.peft import AdapterModule, PeftAdapter
    from loragraft.adapter.placement import Placement
    from loragraft.architecture import Inventory, LinearModule
    from loragraft.architecture.parts import Part
    from loragraft.checkpoint import Checkpoint
    from loragraft.tensor_reader import TensorReader

_MOST_BYTES: Final = 64 << 20
#: What an adapter may have that no method here carries over, and what it is called.
_BESIDE: Final = {
    "use_dora": "DoRA",
    "modules_to_save": "whole modules (modules_to_save)",
    "trainable_token_indices": "rows of an embedding (trainable_token_indices)",
    "use_qalora": "QALoRA",
    "use_bdlora": "block-diagonal LoRA",
    "alora_invocation_tokens": "activated LoRA",
    "layer_replication": "replicated layers",
}


class SourcePart(NamedTuple):
    """An adapter's module, or what it does to some rows of a fused weight.

    Attributes:
        module: The adapter's module.
        part: The weight that it changes, or the rows in question.
        placement: The module on its weight.
    """

    module: AdapterModule
    part: Part
    placement: Placement

    @property
    def linear(self) -> LinearModule:
        """The weight, or the rows as a layer."""
        return self.part.linear


class SourceAdapter(NamedTuple):
    """An adapter and where its modules sit in the source model.

    Attributes:
        adapter: As its files describe it.
        checkpoint: The source model.
        inventory: What that consists of.
        placements: The adapter's modules by name.
        parts: The same with fused ones taken apart, by the module's name.
    """

    adapter: PeftAdapter
    checkpoint: Checkpoint
    inventory: Inventory
    placements: Mapping[str, Placement]
    parts: Mapping[str, tuple[SourcePart, ...]]

    @property
    def all_parts(self) -> tuple[SourcePart, ...]:
        """Every module as a whole, and the parts of those that are fused."""
        found = tuple(all_of(placement) for placement in self.placements.values())
        parts = (part for parts in self.parts.values() for part in parts)
        return (*found, *(part for part in parts if not part.part.is_whole))

    def parts_of(self, source: SourcePart) -> tuple[SourcePart, ...]:
        """Return the parts of a whole module, itself where it is not fused or is a part."""
        return self.parts[source.placement.linear.name] if source.part.is_whole else (source,)


def open_source(path: str | os.PathLike[str], checkpoint: Checkpoint) -> SourceAdapter:
    """Read an adapter and place it on the model it was made for.

    Raises:
        FormatError: A file is missing or malformed.
        MismatchError: The adapter is more than plain LoRA on linear layers, or it was not made for
            this model.
    """
    _refuse_settings(Path(path))
    adapter = read_adapter(path)
    _refuse_tensors(adapter)
    placed = place_adapter(adapter, checkpoint)
    for placement in placed.placements:
        _refuse_module(placement, adapter)
    return SourceAdapter(
        adapter,
        checkpoint,
        placed.inventory,
        {placement.linear.name: placement for placement in placed.placements},
        {
            placement.linear.name: tuple(
                SourcePart(placement.module, part, placement)
                for part in split([placement.linear], checkpoint.config)
            )
            for placement in placed.placements
        },
    )


def all_of(placement: Placement) -> SourcePart:
    """Return a module of the adapter with all rows of its weight."""
    return SourcePart(placement.module, whole(placement.linear), placement)


def read_update(reader: TensorReader, source: SourcePart) -> Update:
    """Return scaling·B·A of a module, of those rows, factored, in float64.

    Raises:
        NonFiniteError: A factor holds NaN or Inf.
        FormatError: A file cannot be read.
    """
    delta = DeltaReader(reader).delta(source.placement, transposed=False)
    left, right = delta.left.astype(np.float64) * delta.scaling, delta.right.astype(np.float64)
    if source.part.is_whole:
        return Update(left, right)
    _, left, right = taken(RowFactors(source.part.rows, left, right))
    return Update(left, right)


def _refuse_settings(path: Path) -> None:
    """Refuse by name what `read_adapter` would refuse as malformed, or leave to its user."""
    directory = path if path.is_dir() else path.parent
    config_file = directory / CONFIG_FILE
    if not config_file.exists():
        return
    config: Mapping[str, Any] = parse_object(
        read_bytes(config_file, _MOST_BYTES), shown(config_file)
    )
    for key, name in _BESIDE.items():
        if config.get(key):
            raise _refused(directory, f"{name}: {key} is {quoted(config[key])}")
    if config.get("bias") not in {None, "none"}:
        raise _refused(directory, f"biases: bias is {quoted(config['bias'])}")
    if config.get("lora_bias"):
        raise _refused(directory, "biases: lora_bias is true")


def _refuse_tensors(adapter: PeftAdapter) -> None:
    if adapter.other_tensors:
        count = counted(len(adapter.other_tensors), "tensor")
        first = next(iter(adapter.other_tensors))
        raise _refused(
            adapter.directory, f"{count} that are no LoRA factors, the first {quoted(first)}"
        )


def _refuse_module(placement: Placement, adapter: PeftAdapter) -> None:
    linear = placement.linear
    if linear.experts or linear.role is Role.EXPERTS:
        raise _refused(adapter.directory, f"factors of experts: {linear.name}")
    if linear.role is Role.EMBEDDING or linear.address.embedding:
        raise _refused(adapter.directory, f"factors of an embedding: {linear.name}")
    if linear.address.parameter:
        raise _refused(adapter.directory, f"factors of a parameter: {linear.name}")


def _refused(directory: Path, what: str) -> MismatchError:
    return MismatchError(
        f"{shown(directory)}: has {what}; transfer takes plain LoRA on linear layers (with rsLoRA,"
        " rank and alpha patterns): save the adapter without it"
    )

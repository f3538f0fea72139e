"""What a checkpoint or an adapter consists of, as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA: Final = "loragraft.inspection/1"


class Subject(StrEnum):
    """What was looked at."""

    CHECKPOINT = "checkpoint"
    ADAPTER = "adapter"


@dataclass(frozen=True, slots=True)
class DTypeCount:
    """The tensors of one dtype: how many, how many numbers they hold, and their bytes."""

    dtype: str
    tensors: int
    parameters: int
    bytes: int


@dataclass(frozen=True, slots=True)
class KindCount:
    """The linear layers of one kind, such as ``q_proj``.

    Attributes:
        kind: Last component of the module path.
        role: What they do in a block; empty for an adapter, whose model is not looked at.
        modules: How many there are.
        shapes: The different ``(out, in)``, sorted.
        parameters: Numbers in the weights, or in the factors of an adapter.
        experts: How many experts each module has, at most; 0 where none shares its weight.
    """

    kind: str
    role: str
    modules: int
    shapes: tuple[tuple[int, int], ...]
    parameters: int
    experts: int = 0


@dataclass(frozen=True, slots=True)
class AdaptedModule:
    """One module of an adapter.

    Attributes:
        name: Module path.
        kind: Its last component.
        layer: Block number, None outside the blocks.
        shape: ``(out, in)`` of the weight that it changes.
        rank: Rank of the factors.
        alpha: Alpha that applies to it.
        scaling: What B·A is multiplied by.
        dtype: Safetensors code of A; of both factors where they agree, else ``A/B``.
        norm: ‖scaling·B·A‖ (Frobenius); None where a factor holds NaN or Inf.
        experts: How many experts it changes, each with factors of that rank; 0 for a layer.
    """

    name: str
    kind: str
    layer: int | None
    shape: tuple[int, int]
    rank: int
    alpha: float
    scaling: float
    dtype: str
    norm: float | None
    experts: int = 0


@dataclass(frozen=True, slots=True)
class EngineOutlook:
    """What becomes of an adapter in some program.

    Attributes:
        engine: The program.
        loads: It does not refuse the adapter.
        right: It loads all of it, and as it is meant.
        notes: What there is to know, clauses whose subject is the program.
    """

    engine: str
    loads: bool
    right: bool
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Inspection:
    """What `inspect` found.

    Attributes:
        path: What was looked at, as it was called.
        kind: A checkpoint or an adapter.
        tensors: Number of tensors.
        parameters: Numbers in them.
        bytes: Their size.
        files: Names of the files that hold them.
        dtypes: Tensors by dtype, the largest share first.
        kinds: Linear layers by kind.
        others: Tensors that are no linear layers' weights, or no factors: count by reason.
        model_type: Of config.json; None for an adapter.
        family: Family whose naming was used; None for an adapter.
        architectures: Of config.json.
        layers: Number of blocks that have a linear layer.
        base_model: ``base_model_name_or_path`` of an adapter.
        ranks: Rank -> number of modules.
        modules: The modules of an adapter.
        residual_bytes: Size of the residual beside an adapter, which `merge --patch` applies; None
            where there is none.
        problems: What may surprise whoever uses it, one sentence each.
        outlook: What a program that was asked about would do with it.
    """

    path: str
    kind: Subject
    tensors: int
    parameters: int
    bytes: int
    files: tuple[str, ...]
    dtypes: tuple[DTypeCount, ...]
    kinds: tuple[KindCount, ...]
    others: Mapping[str, int]
    layers: int
    model_type: str | None = None
    family: str | None = None
    architectures: tuple[str, ...] = ()
    base_model: str | None = None
    ranks: Mapping[int, int] | None = None
    modules: tuple[AdaptedModule, ...] = ()
    residual_bytes: int | None = None
    problems: tuple[str, ...] = ()
    outlook: EngineOutlook | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the inspection as plain data, ready for ``json.dumps``."""
        return {"schema": SCHEMA, "command": "inspect", **asdict(self)}

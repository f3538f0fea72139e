"""What a comparison found, as data: schema ``loragraft.report/1``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from loragraft.report.model import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loragraft.subspaces.chance import Overlap


@dataclass(frozen=True, slots=True)
class ComparedModule:
    """A module of A and its counterpart in B.

    Attributes:
        name: Module path in A.
        other: Module path in B.
        kind: Last component of the path, such as ``q_proj``; of a part of a fused module its own.
        layer: Block number in A, None outside the blocks.
        shape: ``(out, in)`` in A.
        other_shape: ``(out, in)`` in B.
        subspace_rank: Dimension of the subspaces.
        left: Overlap of the output spaces, against chance.
        right: Overlap of the input spaces.
        excess: Mean excess of both over chance; None where it is defined on neither.
        weight_change: ‖W_B − W_A‖ / ‖W_A‖; None for different shapes.
        weight_cosine: Cosine between W_A and W_B; None for different shapes.
        weight_norm: ‖W_A‖.
        other_norm: ‖W_B‖.
        part: Which rows of a fused module of A, such as ``q_proj`` of ``qkv_proj``; empty for all.
        other_part: The same of B.
    """

    name: str
    other: str
    kind: str
    layer: int | None
    shape: tuple[int, int]
    other_shape: tuple[int, int]
    subspace_rank: int
    left: Overlap
    right: Overlap
    excess: float | None
    weight_change: float | None
    weight_cosine: float | None
    weight_norm: float
    other_norm: float
    part: str = ""
    other_part: str = ""


@dataclass(frozen=True, slots=True)
class ComparisonSummary:
    """A comparison in a few figures.

    Attributes:
        verdict: One sentence.
        modules: Modules compared.
        unpaired: Modules of A without a counterpart in B.
        clear: Modules whose similarity is clearly above chance on both sides.
        excess: Mean excess over the modules that have one.
        weight_change: √(Σ‖W_B − W_A‖² / Σ‖W_A‖²) over modules of equal shape; None without any.
        seconds: Wall time.
        warnings: What a reader should know.
    """

    verdict: str
    modules: int
    unpaired: int
    clear: int
    excess: float | None
    weight_change: float | None
    seconds: float
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ComparisonReport:
    """Everything that a comparison has to say."""

    inputs: Mapping[str, Any]
    summary: ComparisonSummary
    modules: tuple[ComparedModule, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain data, ready for ``json.dumps``."""
        return {
            "schema": SCHEMA,
            "command": "compare",
            "inputs": dict(self.inputs),
            "summary": asdict(self.summary),
            "tensors": [],
            "modules": [asdict(module) for module in self.modules],
        }

"""What a transfer found, as data: schema ``loragraft.report/1`` with the figures of a transfer."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from loragraft.report.model import SCHEMA, TensorReport

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loragraft.subspaces.chance import Overlap


class Fate(StrEnum):
    """What became of a module of the target."""

    COPIED = "copied"
    TRANSFERRED = "transferred"
    LEFT_OUT = "left_out"


@dataclass(frozen=True, slots=True)
class TransferredModule:
    """One module of the target that had a source, or a part of one where it is fused.

    Norms are Frobenius, of the factors as written.

    Attributes:
        name: Module path in the target, as PEFT names it.
        kind: Last component of the path, such as ``q_proj``.
        layer: Block number, None outside the blocks.
        shape: ``(out, in)`` of the target's weight, of its rows in question.
        outcome: What became of it.
        why: Why that, and with that method; never empty.
        source: Module path in the source.
        source_layer: Its block number.
        source_shape: ``(out, in)`` of the source's weight, of its rows in question.
        share: Share of the source adapter's squared norm that was at stake here.
        divided_by: Modules of the target that take this source; each gets that part.
        part: Which rows of a fused module, such as ``q_proj`` of ``qkv_proj``; empty for all.
        source_part: The same of the source's module.
        source_rank: Rank of the source's factors.
        method: The alignment; empty where the module was left out before one was chosen.
        subspace_rank: Dimension of the subspaces; 0 where none were needed.
        left: Overlap of the output spaces, against chance; None where it was not measured.
        right: Overlap of the input spaces.
        excess: Mean excess of both sides over chance; None where it is defined on neither.
        weight_change: ‖W_t − W_s‖ / ‖W_s‖; None for different shapes.
        weight_cosine: Cosine between W_s and W_t; None for different shapes.
        rank: Rank written, of all parts of the module together.
        alpha: Alpha that applies to this module; its scaling is ``alpha / rank``.
        dtype: Safetensors code of the written factors.
        source_norm: ‖ΔW_s‖, divided as ``divided_by`` says.
        source_effect: ‖ΔW_s‖ / ‖W_s‖, undivided; None where ‖W_s‖ was not measured.
        delta_norm: ‖ΔW_t‖.
        weight_norm: ‖W_t‖; None where it was not measured.
        effect: ‖ΔW_t‖ / ‖W_t‖.
        retained: ‖ΔW_t‖ / ‖ΔW_s‖ before any ``--scale``.
        chance_retained: The same as expected where the models share nothing.
        rank_loss: Share of the squared norm that cutting to ``rank`` cost.
        near_no_op: Why the module hardly changes; empty where it does.
        seconds: Wall time spent on it.
    """

    name: str
    kind: str
    layer: int | None
    shape: tuple[int, int]
    outcome: Fate
    why: str
    source: str
    source_layer: int | None
    source_shape: tuple[int, int]
    share: float
    divided_by: int
    part: str = ""
    source_part: str = ""
    source_rank: int = 0
    method: str = ""
    subspace_rank: int = 0
    left: Overlap | None = None
    right: Overlap | None = None
    excess: float | None = None
    weight_change: float | None = None
    weight_cosine: float | None = None
    rank: int = 0
    alpha: float = 0.0
    dtype: str = ""
    source_norm: float = 0.0
    source_effect: float | None = None
    delta_norm: float = 0.0
    weight_norm: float | None = None
    effect: float | None = None
    retained: float | None = None
    chance_retained: float | None = None
    rank_loss: float = 0.0
    near_no_op: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class FilterReport:
    """What one filter removed.

    Attributes:
        option: As on the command line, or what removed it.
        modules: How many modules it removed.
        share: Their share of the source adapter's squared norm.
        why: In words.
    """

    option: str
    modules: int
    share: float
    why: str


@dataclass(frozen=True, slots=True)
class TransferSummary:
    """The whole transfer in a few figures.

    Attributes:
        verdict: One sentence or two.
        counts: Modules by outcome.
        layer_map: The rule that paired the layers.
        norm_share: Share of the source adapter's squared norm that reached a module of the target.
        retained: √(Σ‖ΔW_t‖² / Σ‖ΔW_s‖²) over the kept modules, before any ``--scale``; None where
            no module has a source of its own.
        effect: √(Σ‖ΔW_t‖² / Σ‖W_t‖²) over the kept modules; None where it was not measured.
        near_no_op: Why the adapter hardly changes the target; empty where it does.
        bytes_written: Size of the adapter's tensor file.
        seconds: Wall time.
        subspaces_cached: Subspaces that an earlier run had left.
        subspaces_computed: Those that were computed.
        warnings: What a reader should know before trusting the result.
    """

    verdict: str
    counts: Mapping[str, int]
    layer_map: str
    norm_share: float
    retained: float | None
    effect: float | None
    near_no_op: str
    bytes_written: int
    seconds: float
    subspaces_cached: int = 0
    subspaces_computed: int = 0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TransferReport:
    """Everything that a transfer has to say."""

    inputs: Mapping[str, Any]
    summary: TransferSummary
    filters: tuple[FilterReport, ...]
    layers: Mapping[int, int]
    modules: tuple[TransferredModule, ...]
    tensors: tuple[TensorReport, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain data, ready for ``json.dumps``."""
        return {
            "schema": SCHEMA,
            "command": "transfer",
            "inputs": dict(self.inputs),
            "summary": asdict(self.summary),
            "filters": [asdict(one) for one in self.filters],
            "layers": {str(target): source for target, source in self.layers.items()},
            "tensors": [asdict(tensor) for tensor in self.tensors],
            "modules": [asdict(module) for module in self.modules],
            **self.extra,
        }

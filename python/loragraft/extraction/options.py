"""The options of an extraction, checked once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from loragraft.adapter.whole_plan import SaveWhole
from loragraft.errors import UsageError
from loragraft.extraction.ranks import rules

if TYPE_CHECKING:
    from loragraft.architecture.selection import Selection
    from loragraft.extraction.ranks import RankRule

#: Values of ``--dtype`` and the safetensors codes that they stand for.
FACTOR_DTYPES: Final = {"auto": "auto", "bf16": "BF16", "fp16": "F16", "fp32": "F32"}
MOE_LAYOUTS: Final = ("auto", "peft", "peft-legacy", "per-expert")
FORMATS: Final = ("peft", "gguf", "both")
_IO: Final = ("auto", "mmap", "pread")


@dataclass(frozen=True, slots=True)
class ExtractOptions:
    """How to extract.

    Attributes:
        rank: The rank rule.
        selection: Which linear layers to adapt.
        alpha: The adapter's alpha, None for the rank, which makes the scaling 1.
        dtype: ``auto`` (fp16 where it is safe, else bf16), ``bf16``, ``fp16`` or ``fp32``.
        oversampling: Columns of the sketch beyond the rank, at least.
        power_iterations: None to iterate until the captured energy has settled.
        seed: Of the sketches.
        threads: None for one per core.
        io: ``mmap``, ``pread``, or ``auto`` (a map unless the file lies on a network).
        moe_layout: How experts are written: ``peft`` or ``auto`` (one parameter for all, PEFT
            0.19.1 and later), ``peft-legacy`` (PEFT up to 0.18), or ``per-expert`` (each a module).
        rank_text: The rank rule as it was written.
        save_whole: Which other tensors are carried as they are.
        exact: Look for factors whose merge rounds to TUNED's weights.
        patch: Write what the merge still does not give beside the adapter.
        format: ``peft``, ``gguf`` or ``both``.
    """

    rank: RankRule
    selection: Selection
    alpha: float | None = None
    dtype: str = "auto"
    oversampling: int = 8
    power_iterations: int | None = None
    seed: int = 0
    threads: int | None = None
    io: str = "auto"
    moe_layout: str = "auto"
    rank_text: str = ""
    save_whole: SaveWhole = SaveWhole.NONE
    exact: bool = False
    patch: bool = False
    format: str = "peft"

    def __post_init__(self) -> None:
        if self.alpha is not None and not (math.isfinite(self.alpha) and self.alpha > 0):
            raise UsageError(f"--alpha {self.alpha}: expected a positive number")
        if self.dtype not in FACTOR_DTYPES:
            raise UsageError(f"--dtype {self.dtype}: expected {', '.join(FACTOR_DTYPES)}")
        if self.moe_layout not in MOE_LAYOUTS:
            raise UsageError(f"--moe-layout {self.moe_layout}: expected {', '.join(MOE_LAYOUTS)}")
        if self.patch and not self.exact:
            raise UsageError("--patch: what a merge does not give is only small with --exact too")
        if self.format not in FORMATS:
            raise UsageError(f"--format {self.format}: expected {', '.join(FORMATS)}")
        if self.patch and self.format == "gguf":
            raise UsageError("--patch: merge --patch needs the PEFT files too; use --format both")
        if self.io not in _IO:
            raise UsageError(f"--io {self.io}: expected {', '.join(_IO)}")
        if not 0 <= self.oversampling <= 4096:
            raise UsageError(f"--oversampling {self.oversampling}: expected 0 to 4096")
        if self.power_iterations is not None and not 0 <= self.power_iterations <= 100:
            raise UsageError(f"--power-iterations {self.power_iterations}: expected auto or 0..100")
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"--seed {self.seed}: expected 0 to 2^63 - 1")

    @property
    def layout(self) -> str:
        """The layout of experts that is written."""
        return "peft" if self.moe_layout == "auto" else self.moe_layout

    @property
    def exact_dtype(self) -> str:
        """What exact factors are written in: half precision loses a few weights in a thousand."""
        return "fp32" if self.dtype == "auto" and not self.patch else self.dtype

    @property
    def nested(self) -> bool:
        """Whether factors are written at other ranks than they are computed with."""
        return len(rules(self.rank)) > 1 or not self.rank.fixed

    @property
    def scaling(self) -> float:
        """Alpha / rank of the adapter: what PEFT multiplies B·A with, in every module."""
        return 1.0 if self.alpha is None else self.alpha / self.rank.most

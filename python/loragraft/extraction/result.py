"""What an extraction returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from loragraft.extraction.in_memory import Factors
    from loragraft.report.model import Report


@dataclass(frozen=True, slots=True)
class Extraction:
    """A finished extraction.

    Attributes:
        report: What was found, per tensor and module.
        output: The adapter's directory, None when nothing was written.
        factors: Factors by module name when nothing was written, else empty.
        config: The adapter's ``adapter_config.json``.
        smaller: The same at the smaller ranks, where several were asked for.
    """

    report: Report
    output: Path | None
    factors: Mapping[str, Factors] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    smaller: tuple[Extraction, ...] = ()

"""What an adapter leaves of TUNED, written beside it so that nothing is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from loragraft.adapter.peft import read_adapter
from loragraft.adapter.peft_config import RESIDUAL_FILE
from loragraft.lossless.making import write_residual
from loragraft.wording import percent, size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loragraft.destination import Destination
    from loragraft.extraction.computation import Progress
    from loragraft.extraction.plan import ExtractionPlan
    from loragraft.lossless.summary import ResidualSummary

#: Adapter and residual together must be smaller than this share of TUNED.
_PAYS = 0.5


class PatchReport(NamedTuple):
    """What became of the patch.

    Attributes:
        residual: What was written.
        adapter_bytes: Size of the adapter's tensor file.
    """

    residual: ResidualSummary
    adapter_bytes: int

    @property
    def nbytes(self) -> int:
        """Size of adapter and residual."""
        return self.adapter_bytes + self.residual.nbytes

    @property
    def share(self) -> float:
        """Both over the size of TUNED's tensors."""
        return self.nbytes / self.residual.tuned_bytes

    def sentence(self) -> str:
        """Say what TUNED has become; empty where nothing was written."""
        if not self.residual.written:
            return ""
        return (
            f"; BASE, the adapter and {RESIDUAL_FILE} give TUNED bit for bit:"
            f" {size(self.nbytes)} for {size(self.residual.tuned_bytes)}, {percent(self.share)}"
        )

    def warnings(self) -> list[str]:
        """Say why there is no patch, if there is none."""
        if self.residual.written:
            return []
        cause = (
            f", {size(self.residual.whole_bytes)} of it tensors that a merge into BASE does not"
            " give at all (too many weights differ, or they are stored under other names or in a"
            " format that merge does not write)"
            if self.residual.whole_bytes
            else ""
        )
        return [
            f"--patch would not pay: adapter and residual take more than {_PAYS:.0%} of TUNED's"
            f" {size(self.residual.tuned_bytes)}{cause}; no {RESIDUAL_FILE} is written; keep TUNED"
            " itself where every bit matters"
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain data."""
        return {**self.residual.to_json(), "share": self.share}


def write_patch(
    plan: ExtractionPlan,
    destination: Destination,
    config: Mapping[str, Any],
    adapter_bytes: int,
    progress: Progress | None = None,
) -> PatchReport:
    """Write what merging the adapter does not give of TUNED.

    Args:
        plan: What was done.
        destination: Where the adapter's tensors lie already.
        config: The adapter's, which is written later.
        adapter_bytes: Size of its tensor file.
        progress: Called after every tensor.

    Raises:
        LoragraftError: As `write_residual`.
    """
    adapter = read_adapter(destination.directory, config)
    limit = max(0, int(_PAYS * plan.tuned.nbytes) - adapter_bytes)
    path = destination.file(RESIDUAL_FILE)
    residual = write_residual(plan.base, plan.tuned, adapter, path, limit=limit, progress=progress)
    return PatchReport(residual, adapter_bytes)

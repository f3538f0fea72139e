"""What a residual holds, in figures."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class ResidualSummary:
    """What `write_residual` found.

    Where ``written`` is false the work was stopped: all figures are of the tensors until then.

    Attributes:
        written: Whether the file is there; it is not where it would be larger than allowed.
        nbytes: Size of the file; where it is not written, what it would have at least.
        tuned_bytes: Size of all tensors of the tuned checkpoint.
        tensors: How many of these are stored as ``nothing``, ``sparse`` and ``whole``.
        weights: Number of weights that are recorded one by one.
        whole_bytes: Size of the tensors that are stored whole.
        dropped: Number of tensors of the base that the tuned checkpoint lacks.
        seconds: Wall time.
    """

    written: bool
    nbytes: int
    tuned_bytes: int
    tensors: Mapping[str, int]
    weights: int
    whole_bytes: int
    dropped: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain data, ready for ``json.dumps``."""
        return {**asdict(self), "tensors": dict(self.tensors)}

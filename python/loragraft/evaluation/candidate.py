"""What is evaluated: the model alone, the model with an adapter, another model."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

#: Name of the model without an adapter, to which all others are compared.
BASE: Final = "base"


class Kind(StrEnum):
    """What a candidate is."""

    BASE = "base"
    ADAPTER = "adapter"
    #: An adapter that a method must beat, as ``transfer --controls`` writes them.
    CONTROL = "control"
    #: A whole model.
    MODEL = "model"


class Candidate(NamedTuple):
    """One of those that are compared.

    Attributes:
        name: As the user calls it; `BASE` for the model alone.
        kind: What it is.
        path: Directory of the adapter or of the model.
        reference: What the user called that: a path or a Hub id.
    """

    name: str
    kind: Kind
    path: Path
    reference: str = ""

    @property
    def given(self) -> str:
        """What it was made of, as the user called it."""
        return self.reference or str(self.path)

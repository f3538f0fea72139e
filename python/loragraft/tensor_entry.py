"""A tensor of a checkpoint: what it is and where its bytes lie."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from loragraft.input_file import FileIdentity


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor of a checkpoint.

    Attributes:
        name: Its name in the checkpoint.
        dtype: Safetensors dtype code, such as ``BF16``.
        shape: Its dimensions.
        path: The file that holds it.
        offset: Where it begins in that file, in bytes.
        nbytes: How many bytes it takes.
        identity: What the file was when its header was read; None when nobody looked.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    nbytes: int
    identity: FileIdentity | None = field(default=None, repr=False, compare=False)

    @property
    def parameters(self) -> int:
        """How many numbers the tensor holds."""
        return math.prod(self.shape)

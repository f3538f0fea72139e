"""Factors in the dtype that they are written in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from loragraft.dtypes import from_float32, to_float32
from loragraft.errors import MismatchError
from loragraft.wording import quoted

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NAMES: Final = {"BF16": "bf16", "F16": "fp16", "F32": "fp32"}


def narrow(values: NDArray[np.float32], code: str, module: str) -> NDArray[np.generic]:
    """Return a factor in a dtype; BF16 as bit patterns.

    Args:
        values: The factor.
        code: Safetensors code of the dtype.
        module: Whose factor it is.

    Raises:
        MismatchError: It overflows.
    """
    with np.errstate(over="ignore"):
        stored = from_float32(values, code)
    if not np.isfinite(to_float32(stored, code)).all():
        advice = "use --dtype bf16 or fp32" if code == "F16" else "no model has such weights"
        raise MismatchError(
            f"a factor of {quoted(module)} is too large for {_NAMES[code]}"
            f" ({np.abs(values).max():.4g}); {advice}"
        )
    return stored

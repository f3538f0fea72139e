"""The order in which people count: ``layers.2`` before ``layers.10``."""

from __future__ import annotations

import re
from typing import Final

_DIGITS: Final = re.compile("[0-9]+")


def natural_key(name: str) -> tuple[str, str]:
    """Return a sort key that compares runs of digits as numbers (up to 20 digits)."""
    return _DIGITS.sub(lambda run: run[0].zfill(20), name), name

"""Figures of the tests of reliability, kept where somebody asks for them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def record(name: str, figures: dict[str, Any]) -> None:
    """Write figures to ``NAME.json`` in the directory ``$LORAGRAFT_RELIABILITY``, if there is one.

    Args:
        name: Of the test, without a suffix.
        figures: What it counted or measured.
    """
    directory = os.environ.get("LORAGRAFT_RELIABILITY")
    if not directory:
        return
    place = Path(directory)
    place.mkdir(parents=True, exist_ok=True)
    text = json.dumps(figures, indent=2, sort_keys=True)
    (place / f"{name}.json").write_text(text + "\n", encoding="utf-8")

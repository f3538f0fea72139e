"""Figures that tests have counted, for docs/reliability.md: one JSON file for each test module."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The directory for the figures; where it is not set, nothing is written.
VARIABLE: Final = "LORAGRAFT_RELIABILITY"


def record(name: str, figures: Mapping[str, object]) -> None:
    """Keep what a test module has counted.

    Args:
        name: The test module, without ``test_``; also the name of the file.
        figures: Numbers, texts, lists and objects of them, by what they say. Figures that the
            module has recorded before stay, unless they have the same name.
    """
    directory = os.environ.get(VARIABLE)
    if not directory:
        return
    path = Path(directory) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(path.read_text("utf-8"))["figures"] if path.exists() else {}
    content = {"name": name, "figures": {**known, **figures}}
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")

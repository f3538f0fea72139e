"""What slow tests found out about other programs, kept for docs/compatibility.md."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

_KEPT: Final = os.environ.get("LORAGRAFT_COMPATIBILITY", "")


def record(program: str, case: str, what: str, **found: object) -> None:
    """Keep one line, where the environment says where; a later one replaces an earlier one."""
    if not _KEPT:
        return
    directory = Path(_KEPT)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{program.replace(' ', '-')}.json"
    lines = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    lines = [line for line in lines if (line["case"], line["what"]) != (case, what)]
    lines.append({"case": case, "what": what, **found})
    path.write_text(json.dumps(lines, indent=1), encoding="utf-8")

"""Writes the corpus into a directory: ``python tests/data/hostile/make.py DIR``.

Every case becomes a directory, and manifest.json says what each is and what must come of it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

_TESTS = Path(__file__).parents[2]


def main(directory: Path) -> None:
    """Make all cases and the manifest."""
    sys.path[:0] = [str(_TESTS / "python"), str(_TESTS / "data")]
    from hostile import toy
    from hostile.corpus import all_cases

    toy.write_good(directory / "good")
    manifest = []
    for number, case in enumerate(all_cases()):
        place = directory / f"{number:04}"
        place.mkdir()
        case.make(place)
        manifest.append(
            {
                "directory": place.name,
                "kind": case.kind,
                "case": case.name,
                "commands": [list(command) for command in case.commands],
                "exit_codes": list(case.codes),
                "subject": case.subject,
            }
        )
    text = json.dumps(manifest, indent=1) + "\n"
    (directory / "manifest.json").write_text(text, "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

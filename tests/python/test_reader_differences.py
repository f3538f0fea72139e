"""Our reader differs from the official one in the ways that docs/formats.md lists, and no other."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from hostile.corpus import all_cases
from hostile_safetensors import MALFORMED, STRICTER, VALID
from mutated_safetensors import files
from reader_differences import CLASSES, difference, ours
from reliability import record

DOCS = Path(__file__).parents[2] / "docs" / "formats.md"
#: Files of the corpus that are larger are of cases about size, not about bytes.
LARGEST = 1 << 20
EXAMPLES = 1200
FOUND: dict[str, Counter[str]] = {"corpus": Counter(), "made files": Counter()}


@pytest.mark.parametrize("name", CLASSES)
def test_the_documentation_lists_every_class(name: str) -> None:
    assert f"\n| {name} |" in DOCS.read_text("utf-8")


def test_the_documentation_lists_no_other_class() -> None:
    text = DOCS.read_text("utf-8")
    table = text.partition("| What | Why |\n| --- | --- |\n")[2].partition("\n\n")[0]
    assert {row.split(" | ")[0].removeprefix("| ") for row in table.splitlines()} == set(CLASSES)


def test_every_class_has_a_case() -> None:
    assert {difference(content) for content in STRICTER.values()} == set(CLASSES)


def test_the_cases_of_headers() -> None:
    for content in (MALFORMED | VALID).values():
        assert difference(content) == ""


def test_the_files_of_the_corpus(tmp_path: Path) -> None:
    for number, case in enumerate(all_cases()):
        if case.alone:
            continue
        place = tmp_path / str(number)
        place.mkdir()
        case.make(place)
        for path in place.rglob("*.safetensors"):
            if path.is_file() and not path.is_symlink() and path.stat().st_size <= LARGEST:
                FOUND["corpus"][difference(path.read_bytes())] += 1
    assert sum(FOUND["corpus"].values()) > 500


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(files())
def test_made_files(content: bytes) -> None:
    found = difference(content)
    known = found or ("read alike" if not isinstance(ours(content), str) else "refused by both")
    FOUND["made files"][known] += 1


def test_made_files_are_of_all_sorts() -> None:
    """Runs after them; the strategy must not end up with one sort alone."""
    counts = FOUND["made files"]
    if counts:
        assert min(counts["read alike"], counts["refused by both"]) > EXAMPLES // 20
        assert len([name for name in CLASSES if counts[name]]) >= 5
    record(
        "reader_differences",
        {
            "classes of disagreement": len(CLASSES),
            "files of the corpus": sum(FOUND["corpus"].values()),
            "made files": sum(counts.values()),
            "made files by outcome": dict(counts.most_common()),
        },
    )

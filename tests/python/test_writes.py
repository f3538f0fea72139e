"""Every write goes through one place: one file makes the calls, and no command makes others."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import exact_models
import lora_files as files
import loragraft
import transfer_files

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(loragraft.__file__).parent
SEAM = PACKAGE / "system_calls.py"
#: What changes files, by whatever it is called on.
METHODS = frozenset(
    """
    chmod copy2 copyfile copytree hardlink_to link mkdir mkdtemp mkstemp move open_memmap
    NamedTemporaryFile pwrite pwritev posix_fallocate remove removedirs rename renames rmdir rmtree
    save save_file save_pretrained savez symlink symlink_to TemporaryDirectory TemporaryFile tofile
    touch truncate ftruncate unlink utime write_bytes write_text fsync fdatasync
    """.split()  # noqa: SIM905 -- forty lines as a list
)
#: What others than files have too.
OTHERS = {("os", "write"), ("os", "replace"), ("os", "makedirs"), ("shutil", "copy")}
#: What else is called so, and changes no file.
HARMLESS = {
    "calibration/language_model.py": {"remove"},
    # The stdout of a program whose reader has gone.
    "cli/failure.py": {"open"},
}
WRITING = ("O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "O_APPEND")


def calls(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and name of every call in a file that could change files."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        name = getattr(function, "attr", getattr(function, "id", ""))
        owner = getattr(getattr(function, "value", None), "id", "")
        if owner in {"system_calls", "self"}:
            continue
        if name in METHODS or (owner, name) in OTHERS:
            yield node.lineno, name
        if name == "open" and _writes(node, owner):
            yield node.lineno, name


def _writes(node: ast.Call, owner: str) -> bool:
    text = ast.unparse(node)
    if owner == "os":
        return any(flag in text for flag in WRITING)
    position = 1 if isinstance(node.func, ast.Name) else 0
    given = [
        *node.args[position : position + 1],
        *(word.value for word in node.keywords if word.arg == "mode"),
    ]
    modes = [one.value for one in given if isinstance(one, ast.Constant)]
    return any(isinstance(mode, str) and set(mode) & set("wax+") for mode in modes)


def test_nothing_else_in_the_package_writes() -> None:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if path == SEAM:
            continue
        place = str(path.relative_to(PACKAGE))
        found += [
            f"{place}:{line}: {name}"
            for line, name in calls(path)
            if name not in HARMLESS.get(place, set())
        ]
    assert found == []


def test_the_check_finds_what_it_looks_for(tmp_path: Path) -> None:
    text = """
path.write_text("x")
open("x", "w")
path.open(mode="ab")
os.open("x", os.O_WRONLY | os.O_CREAT)
os.write(1, b"")
os.replace("a", "b")
shutil.copyfile("a", "b")
open("x", "rb")
os.open("x", os.O_RDONLY)
"name".replace("a", "b")
system_calls.rename(a, b)
"""
    path = tmp_path / "x.py"
    path.write_text(text)
    assert [line for line, _ in calls(path)] == [2, 3, 4, 5, 6, 7, 8]


#: Runs commands, and tells of every file that was opened or changed from anywhere else.
WATCHED = """
import json, os, sys
from loragraft.cli.application import run
CHANGES = {"os.remove", "os.rename", "os.link", "os.mkdir", "os.rmdir", "os.symlink",
           "os.truncate", "os.utime", "os.chmod", "shutil.copyfile", "shutil.rmtree"}
watched, found, seen = [True], [], set()

def audit(event, arguments):
    if not watched[0]:
        return
    if event == "open":
        path, _, flags = arguments
        if not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) or path == os.devnull:
            return
    elif event not in CHANGES:
        return
    frame, files = sys._getframe(1), []
    while frame is not None:
        files.append(frame.f_code.co_filename)
        frame = frame.f_back
    if any(name.endswith(os.path.join("loragraft", "system_calls.py")) for name in files):
        seen.add(event)
    else:
        found.append([event, str(arguments[0]), files[0]])

jobs = json.loads(sys.argv[1])
sys.addaudithook(audit)
codes = [run(job) for job in jobs]
watched[0] = False
json.dump({"codes": codes, "found": found, "seen": sorted(seen)}, sys.stderr)
"""


@pytest.fixture
def jobs(tmp_path: Path) -> dict[str, list[object]]:
    base, tuned, adapter = files.noisy_pair(tmp_path)["paths"]
    other = transfer_files.moved(base, tmp_path / "other", change=0.01)
    sides: list[object] = ["transfer", adapter, "--source", base, "--target", other]
    merged = exact_models.merge(tmp_path / "exact")
    patched = tmp_path / "patched"
    exact = ["extract", merged.base, merged.tuned, "--rank", "4", "--exact", "--patch"]
    return {
        "extract": ["extract", base, tuned, "-o", tmp_path / "plain", "--rank", "2"],
        "several": ["extract", base, tuned, "-o", tmp_path / "several", "--rank", "1,2"],
        "whole": ["extract", base, tuned, "-o", tmp_path / "whole", "--save-whole", "all"],
        "patch": [*exact, "-o", patched],
        "verify": ["verify", base, tuned, adapter, "--optimum"],
        "inspect": ["inspect", base],
        "merge": ["merge", base, adapter, "-o", tmp_path / "merged"],
        "merge again": ["merge", tuned, adapter, "-o", tmp_path / "merged", "--force"],
        "merge patch": ["merge", merged.base, patched, "-o", tmp_path / "back", "--patch"],
        "copy": [*sides, "-o", tmp_path / "copy", "--method", "copy"],
        "lora-x": [*sides, "-o", tmp_path / "lora-x", "--method", "lora-x"],
        "compare": ["compare", base, other, "-o", tmp_path / "compared"],
        "doctor": ["doctor"],
    }


def test_no_command_writes_otherwise(tmp_path: Path, jobs: dict[str, list[object]]) -> None:
    arguments = [[str(word) for word in job] for job in jobs.values()]
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, json.dumps(arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "LORAGRAFT_CACHE": str(tmp_path / "cache"),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
    )
    told = json.loads(done.stderr[done.stderr.rindex('{"codes"') :])
    assert dict(zip(jobs, told["codes"], strict=True)) == dict.fromkeys(jobs, 0), done.stderr
    assert told["found"] == []
    assert {"open", "os.link", "os.mkdir", "os.remove", "os.rename"} <= set(told["seen"])

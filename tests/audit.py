"""Looks for known vulnerabilities in what the package needs, as it is installed: ``make audit``.

Where the list of vulnerabilities cannot be reached it says so and ends well: nothing was found out.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
#: What people run; not what tests are made with.
EXTRAS = ("eval", "plot", "demo")


def wanted() -> list[str]:
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    return [*project["dependencies"], *(entry for extra in EXTRAS for entry in extras[extra])]


def installed(entries: list[str]) -> dict[str, str]:
    """Versions of these packages, and of all that they need in turn, as far as they are here."""
    found: dict[str, str] = {}
    todo = list(entries)
    while todo:
        entry = todo.pop()
        match = re.match(r"[A-Za-z0-9._-]+", entry)
        name = re.sub(r"[._-]+", "-", match[0]).lower() if match else ""
        if not name or name in found or "extra ==" in entry:
            continue
        try:
            # A local part, such as +cpu, is in no list.
            found[name] = version(name).partition("+")[0]
            todo += requires(name) or []
        except PackageNotFoundError:
            continue
    return found


def audit(packages: dict[str, str]) -> tuple[list[dict[str, Any]], str]:
    """What pip-audit says of each package, and what it complains of."""
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder) / "pins.txt"
        pins.write_text("".join(f"{name}=={packages[name]}\n" for name in sorted(packages)))
        options = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "-f", "json"]
        command = [sys.executable, "-m", "pip_audit", *options, "-r", str(pins)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    start = done.stdout.find("{")
    rows = json.loads(done.stdout[start:])["dependencies"] if start >= 0 else []
    return rows, done.stderr.strip()


def verdict(rows: list[dict[str, Any]], complaint: str) -> tuple[int, str]:
    """The exit code, and what to say."""
    known = [row for row in rows if "skip_reason" not in row]
    if not known:
        last = complaint.splitlines()[-1] if complaint else "no package is known there"
        return 0, f"audit: skipped, the list of vulnerabilities cannot be reached ({last})"
    bad = [(row, vuln) for row in known for vuln in row["vulns"]]
    lines = [
        f"{row['name']} {row['version']}: {vuln['id']}, mended in"
        f" {', '.join(vuln['fix_versions']) or 'no release'}"
        for row, vuln in bad
    ]
    unknown = len(rows) - len(known)
    lines.append(f"audit: {len(known)} packages, {len(bad)} vulnerabilities, {unknown} not listed")
    return (1 if bad else 0), "\n".join(lines)


if __name__ == "__main__":
    code, text = verdict(*audit(installed(wanted())))
    print(text)
    sys.exit(code)

"""Fuzzes every target for a while: ``make fuzz``.

What is found is kept in ``crashes``, and a run with a finding fails. ``--keep`` takes inputs that
reach new code into ``corpus``, as few and small as libFuzzer can find.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT / "tests/python")]

import reliability  # noqa: E402
import target  # noqa: E402

#: Larger inputs reach little that these do not.
LONGEST = 20_000
#: Of one target's corpus, and of an input in it.
MOST_FILES, MOST_BYTES, MOST_OF_ONE = 200, 100_000, 4096


class Fuzzer(NamedTuple):
    """A target and how it is called.

    Attributes:
        name: Of its folders in ``corpus`` and ``crashes``.
        command: Without folders and options.
    """

    name: str
    command: list[str]

    def run(self, seconds: int, work: Path) -> dict[str, Any]:
        """Fuzz; what was executed, and how many inputs were found to fail."""
        found, crashes = work / "found", HERE / "crashes" / self.name
        for folder in (found, crashes):
            folder.mkdir(parents=True, exist_ok=True)
        before = set(crashes.iterdir())
        log = work / "log.txt"
        options = [
            f"-max_total_time={seconds}",
            f"-timeout={target.SECONDS}",
            "-rss_limit_mb=4096",
            f"-max_len={LONGEST}",
            f"-dict={HERE / 'dictionary.txt'}",
            f"-artifact_prefix={crashes}/",
            "-print_final_stats=1",
        ]
        places = (found, HERE / "corpus" / self.name, work / "seeds")
        folders = [str(place) for place in places if place.is_dir()]
        begin = time.monotonic()
        with log.open("wb") as out:
            code = subprocess.call([*self.command, *folders, *options], stdout=out, stderr=out)
        taken = round(time.monotonic() - begin)
        text = log.read_text(errors="replace")
        new = sorted(path.name for path in set(crashes.iterdir()) - before)
        if not any(crashes.iterdir()):
            crashes.rmdir()
        if code != 0 and not new:
            raise SystemExit(f"{self.name}: could not be run:\n{text[-3000:]}")
        # Those of before are in the test suite, and so mended.
        return {
            "seconds": taken,
            "executed": _executed(text),
            "crashes": new,
            "mended": len(before),
        }

    def keep(self, work: Path) -> None:
        """Replace the corpus by the fewest inputs that reach as much."""
        corpus, merged = HERE / "corpus" / self.name, work / "merged"
        shutil.rmtree(merged, ignore_errors=True)
        merged.mkdir()
        sources = [str(p) for p in (corpus, work / "seeds", work / "found") if p.is_dir()]
        options = ["-merge=1", f"-max_len={MOST_OF_ONE}"]
        subprocess.run([*self.command, *options, str(merged), *sources], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        shutil.rmtree(corpus, ignore_errors=True)
        corpus.mkdir(parents=True)
        for path in _some(sorted(merged.iterdir(), key=lambda path: path.stat().st_size)):
            shutil.copy(path, corpus / path.name)


def _some(paths: list[Path]) -> list[Path]:
    """As many as a repository should carry, small ones and large ones."""
    count = min(len(paths), MOST_FILES)
    while count:
        chosen = [paths[i * len(paths) // count] for i in range(count)]
        if sum(path.stat().st_size for path in chosen) <= MOST_BYTES:
            return chosen
        count -= 1
    return []


def _executed(log: str) -> int:
    found = re.findall(r"number_of_executed_units:\s*(\d+)", log) or re.findall(
        r"^#(\d+)\t", log, re.M
    )
    return int(found[-1]) if found else 0


def fuzzers(native: Path) -> list[Fuzzer]:
    python = [sys.executable, str(HERE / "driver.py")]
    found = [Fuzzer(name, [*python, name]) for name in target.names()]
    programs = sorted(
        path for path in native.glob("fuzz_*") if os.access(path, os.X_OK) and path.is_file()
    )
    return found + [Fuzzer(path.name.removeprefix("fuzz_"), [str(path)]) for path in programs]


def write_seeds(name: str, folder: Path) -> None:
    if name not in target.names():
        return
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.load(name).seeds()):
        (folder / f"seed-{number:03}").write_bytes(seed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--native", type=Path, default=ROOT / "build/fuzz/bin")
    parser.add_argument("--work", type=Path, default=ROOT / "build/fuzz/work")
    parser.add_argument("--only", action="append", help="a target; may be given again")
    parser.add_argument("--keep", action="store_true", help="take what is new into the corpus")
    options = parser.parse_args()
    os.environ.setdefault("LORAGRAFT_RELIABILITY", str(ROOT / "build/fuzz"))
    found = [f for f in fuzzers(options.native) if not options.only or f.name in options.only]
    failed = False
    for fuzzer in found:
        work = options.work / fuzzer.name
        write_seeds(fuzzer.name, work / "seeds")
        figures = fuzzer.run(options.seconds, work)
        reliability.record("fuzz", {fuzzer.name: figures})
        print(f"{fuzzer.name}: {figures['executed']:,} inputs in {figures['seconds']} s,"
              f" {len(figures['crashes'])} findings", flush=True)  # fmt: skip
        failed |= bool(figures["crashes"])
        if options.keep:
            fuzzer.keep(work)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

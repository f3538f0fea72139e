"""ARC-Challenge: an extracted adapter beside its original, transferred adapters beside controls.

    python benchmarks/arc.py BED DATA OUT [--limit N] [--only smollm2|gemma] [--dtype fp32|bf16]

BED is that of the test bed of transfer (transfer/README.md), DATA holds ARC-Challenge/test.jsonl.
Everything is asked by ``loragraft evaluate``; started again it goes on where it was stopped. Writes
arc.md from the reports that are there.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from machine import this_machine
from markdown import table

_RANKS: Final = (4, 8, 16, 32)
_PAGE: Final = Path(__file__).with_name("arc.md")
#: Directory of the report, heading, and what is evaluated.
_PARTS: Final = {
    "smollm2": "SmolLM2-135M-Instruct: its ARC adapter, and the same extracted from merged weights",
    "gemma": "Gemma-3-270M: the same adapter transferred, beside controls and its own",
}


def main() -> None:
    """Run what is missing, and write the page."""
    arguments = _arguments()
    bed, out = arguments.bed, arguments.out
    runs = {"smollm2": _extracted, "gemma": _transferred}
    for part in [arguments.only] if arguments.only else list(_PARTS):
        if not (out / part / "report.json").exists():
            command = ["evaluate", str(bed / part), *runs[part](bed, out)]
            command += ["--task", "arc_challenge", "--data", str(arguments.data)]
            command += ["--limit", str(arguments.limit)] if arguments.limit else []
            command += ["-o", str(out / part), "--dtype", arguments.dtype, "--resume"]
            _loragraft(command)
            (out / part / "command.txt").write_text(shlex.join(["loragraft", *command]))
    _PAGE.write_text(_page(out, [part for part in _PARTS if (out / part / "report.json").exists()]))


def _extracted(bed: Path, out: Path) -> list[str]:
    """Merge the adapter, extract it at every rank, and return the candidates."""
    base, adapter, tuned = bed / "smollm2", bed / "smollm2_arc", out / "tuned"
    if not tuned.exists():
        _loragraft(["merge", str(base), str(adapter), "-o", str(tuned)])
    names = {rank: out / f"extracted-r{rank}" for rank in _RANKS}
    if not all(path.exists() for path in names.values()):
        ranks = ",".join(map(str, _RANKS))
        options = ["-o", str(out / "extracted"), "--rank", ranks, "--force"]
        _loragraft(["extract", str(base), str(tuned), *options])
    given = ["--adapter", f"trained={adapter}", "--oracle", "trained"]
    for rank, path in names.items():
        given += ["--adapter", f"extracted-r{rank}={path}"]
    return given


def _transferred(bed: Path, out: Path) -> list[str]:
    """Return the transferred adapters and controls that the test bed has."""
    del out
    given = ["--adapter", f"own={bed / 'gemma_arc'}", "--oracle", "own"]
    stem = "smollm2_gemma_"
    controls = ("-random", "-padded-copy", "-shuffled")
    for path in sorted(bed.glob(f"{stem}*/adapter_config.json")):
        name = path.parent.name.removeprefix(stem)
        option = "--control" if name.endswith(controls) else "--adapter"
        given += [option, f"{name}={path.parent}"]
    return given


def _loragraft(command: list[str]) -> None:
    subprocess.run([sys.executable, "-m", "loragraft", *command], check=True)


def _page(out: Path, parts: list[str]) -> str:
    machine = this_machine()
    lines = [
        "# ARC-Challenge",
        "",
        "Made by `benchmarks/arc.py`, which asks everything with `loragraft evaluate`; what the"
        " figures mean is in [docs/evaluate.md](../docs/evaluate.md). Adapters are taken as they"
        f" are written, at scale 1. {machine.processor}, {machine.cores} cores.",
    ]
    for part in parts:
        report = json.loads((out / part / "report.json").read_text())
        lines += ["", f"## {_PARTS[part]}", "", *_part(report)]
        command = (out / part / "command.txt").read_text()
        for path, name in ((str(out), "OUT"), *_places(report)):
            command = command.replace(path, name)
        lines += ["", f"    {command}", ""]
        seconds = report["summary"]["seconds"]
        lines += [f"{seconds / 60:.0f} minutes for the last go, which may have gone on from one."]
    return "\n".join(lines) + "\n"


def _places(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what stands for local directories in a command that is shown."""
    inputs = report["inputs"]
    return [(str(Path(inputs["model"]).parent), "BED"), (str(inputs["data"]), "DATA")]


def _part(report: dict[str, Any]) -> list[str]:
    (task,) = report["tasks"]
    beside = {one["candidate"]: one for one in report["comparisons"] if one["against"] == "base"}
    rows = []
    for one in task["candidates"]:
        cells = [one["name"], f"{one['acc']:.1%}", f"{one['acc_norm']:.1%}", f"{one['margin']:.3f}"]
        found = beside.get(one["name"])
        rows.append([*cells, *(_differences(found) if found else [""] * 4)])
    heads = ["", "acc", "acc_norm", "margin (nats)", "acc: difference in points (95 %)"]
    heads += ["margin: difference (95 %)", "gap in log-likelihood recovered", "answers changed"]
    text = [f"{task['questions']:,} questions.", "", table(heads, rows), ""]
    text += [f"- {one['candidate']}: {one['words']}" for one in beside.values()]
    return [*text, "", report["summary"]["verdict"] + "."]


def _differences(found: dict[str, Any]) -> list[str]:
    acc, margin, gold = (found["metrics"][one] for one in ("acc", "margin", "gold_log_likelihood"))
    points = [100.0 * acc[one] for one in ("difference", "low", "high")]
    gap = gold["gap"]
    return [
        "{:+.1f} ({:+.1f} to {:+.1f})".format(*points),
        "{difference:+.3f} ({low:+.3f} to {high:+.3f})".format(**margin),
        "{value:.1%} ({low:.1%} to {high:.1%})".format(**gap) if gap else "",
        f"{found['changed']:.1%}",
    ]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bed", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--only", choices=list(_PARTS))
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    return parser.parse_args()


if __name__ == "__main__":
    main()

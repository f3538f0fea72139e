"""Run mergekit-extract-lora and loragraft on the same pair and compare what they give.

    .venv/bin/python benchmarks/mergekit_comparison.py --base B --tuned T

mergekit lives in an environment of its own, for it pins its dependencies; this script makes the
same one as ``make bench``.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from safetensors import safe_open

import process
import quality
from contenders import THREADS
from llama import llama_pair
from machine import this_machine
from markdown import table
from mergekit_environment import mergekit
from pairs import Pair
from spread import Spread

if TYPE_CHECKING:
    from collections.abc import Mapping

    from process import Usage

_OUT: Final = Path(__file__).parent / "out"
_MB: Final = 1e6
_NOT_LINEAR: Final = "embed_tokens|lm_head|norm"
_VARIABLES: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_FACTORS: Final = (".lora_A.weight", ".lora_B.weight")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one program gave.

    Attributes:
        usages: Of every round.
        energy: Kept in all linear layers of the blocks together.
        size: Of the tensor file, in bytes.
        tensors: Number of them.
        factors: Number of those that are LoRA factors.
        missing: Keys that PEFT wanted and did not find.
        unexpected: Keys that PEFT found and did not want.
    """

    usages: list[Usage]
    energy: float
    size: int
    tensors: int
    factors: int
    missing: int
    unexpected: int


def main() -> None:
    """Compare, print the table."""
    arguments = _parse()
    directory = _OUT / "pairs"
    if arguments.base is None:
        pair = llama_pair(directory, 1, complete=True)
    else:
        pair = Pair(arguments.name, arguments.base, arguments.tuned, 0, 0)
    environment = mergekit(_OUT, lambda line: print(line, file=sys.stderr))
    commands = _commands(environment.program[0], pair, arguments.rank)
    usages = _run(commands, arguments.rounds)
    outcomes = {name: _judge(pair, _output(name), used) for name, used in usages.items()}
    print(this_machine().table())
    print(_table(pair.name, arguments.rank, outcomes))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--base", type=Path, help="by default a made pair of one layer")
    parser.add_argument("--tuned", type=Path)
    parser.add_argument("--name", default="the pair", help="what to call it in the table")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if (arguments.base is None) != (arguments.tuned is None):
        parser.error("--base and --tuned go together")
    return arguments


def _output(name: str) -> Path:
    return _OUT / "mergekit" / name.replace(" ", "-").replace(",", "")


def _commands(python: str, pair: Pair, rank: int) -> dict[str, list[str]]:
    """Return the command lines by name.

    By default mergekit also stores embeddings, head and norms whole.
    """
    script = [python, "-m", "mergekit.scripts.extract_lora"]
    script += ["--model", str(pair.tuned), "--base-model", str(pair.base)]
    script += ["--max-rank", str(rank), "--num-threads", str(THREADS), "--quiet"]
    ours = [sys.executable, "-m", "loragraft", "extract", str(pair.base), str(pair.tuned)]
    ours += ["--rank", str(rank), "--threads", str(THREADS)]
    only = "mergekit, linear layers only"
    return {
        "loragraft": [*ours, "-o", str(_output("loragraft"))],
        "mergekit": [*script, "--out-path", str(_output("mergekit"))],
        only: [*script, "--exclude-regex", _NOT_LINEAR, "--out-path", str(_output(only))],
    }


def _run(commands: Mapping[str, list[str]], rounds: int) -> dict[str, list[Usage]]:
    environment = dict(os.environ) | dict.fromkeys(_VARIABLES, str(THREADS))
    usages: dict[str, list[Usage]] = {name: [] for name in commands}
    (_OUT / "mergekit").mkdir(parents=True, exist_ok=True)
    for _ in range(rounds):
        for name, command in commands.items():
            shutil.rmtree(_output(name), ignore_errors=True)
            usages[name].append(process.run(command, environment | {"HF_HUB_OFFLINE": "1"}))
            print(f"{name}: {usages[name][-1].wall:.1f} s", file=sys.stderr, flush=True)
    return usages


def _judge(pair: Pair, output: Path, usages: list[Usage]) -> Outcome:
    tensors = output / "adapter_model.safetensors"
    with safe_open(tensors, "pt") as file:
        keys = list(file.keys())
    factors = [key for key in keys if key.endswith(_FACTORS)]
    modules = {key.removesuffix(_FACTORS[0]) for key in factors if key.endswith(_FACTORS[0])}
    names = sorted(f"{module.removeprefix('base_model.model.')}.weight" for module in modules)
    linears = [name for name in names if not re.search(_NOT_LINEAR, name)]
    found = quality.measure(pair, {"it": output}, linears)["it"]
    missing, unexpected = _load(pair.base, output)
    return Outcome(
        usages=usages,
        energy=quality.together(found.values()).energy,
        size=tensors.stat().st_size,
        tensors=len(keys),
        factors=len(factors),
        missing=missing,
        unexpected=unexpected,
    )


def _load(base: Path, adapter: Path) -> tuple[int, int]:
    """Load an adapter with PEFT; return how many keys are missing and unexpected."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(base)
        model = PeftModel.from_pretrained(model, adapter)
        result = model.load_adapter(adapter, "again")
    missing = [key for key in result.missing_keys if ".again." in key]
    return len(missing), len(result.unexpected_keys)


def _table(pair: str, rank: int, outcomes: Mapping[str, Outcome]) -> str:
    columns = outcomes.values()
    rows = [
        ["Wall time, s", *(Spread.of(u.wall for u in o.usages).text(1) for o in columns)],
        ["User and system time, s", *(Spread.of(u.cpu for u in o.usages).text(1) for o in columns)],
        [
            "Peak anonymous memory, MB",
            *(f"{max(u.anonymous for u in o.usages) / _MB:.0f}" for o in columns),
        ],
        ["Energy kept, linear layers", *(f"{o.energy:.6f}" for o in columns)],
        ["Adapter, MB", *(f"{o.size / _MB:.1f}" for o in columns)],
        ["Tensors in it", *(str(o.tensors) for o in columns)],
        ["of them LoRA factors", *(str(o.factors) for o in columns)],
        [
            "Missing and unexpected keys in PEFT",
            *(f"{o.missing} and {o.unexpected}" for o in columns),
        ],
    ]
    return table([f"{pair}, rank {rank}", *outcomes], rows)


if __name__ == "__main__":
    main()

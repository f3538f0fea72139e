"""How long `loragraft transfer` takes between two models of 1.5 and 2 billion weights.

    .venv/bin/python benchmarks/transfer/speed.py DIRECTORY [--layers 28,26] [--methods lora-x,...]

Makes models with the shapes of Qwen2.5-1.5B and Gemma-2-2B in DIRECTORY, 8.4 GB at full depth,
unless they are there, see `two_models.py`; then transfers an adapter of rank 16 both ways, with
an empty cache and with a full one, and prints seconds and memory. Weights are in the page cache.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

sys.path.append(str(Path(__file__).resolve().parents[1]))

from two_models import Model, gemma, make_adapter, make_model, qwen

import page_cache
import process
from markdown import table

if TYPE_CHECKING:
    from collections.abc import Iterator

METHODS: Final = ("lora-x", "cross-lora", "shared-vocab")
_MB: Final = 1e6


class Side(NamedTuple):
    """A model and the adapter that was made for it."""

    model: Path
    adapter: Path


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--layers", default="28,26", help="of the one model and of the other")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--rank", default="128", help="of the subspaces")
    parser.add_argument("--one-way", action="store_true", help="only from Qwen to Gemma")
    options = parser.parse_args()
    depths = [int(depth) for depth in options.layers.split(",")]
    shapes = (model(depth) for model, depth in zip((qwen, gemma), depths, strict=True))
    sides = [_side(options.directory, model) for model in shapes]
    for side in sides:
        page_cache.warm(list(side.model.glob("*.safetensors")))
    ways = [sides] if options.one_way else [sides, sides[::-1]]
    head = ["Transfer", "cache", "s", "CPU s", "others' CPU s", "anonymous MB"]
    print(table(head, _rows(options, ways)))


def _side(directory: Path, model: Model) -> Side:
    place = directory / f"{model.kind}-{model.layers}"
    base = make_model(model, place / "model")
    return Side(base, make_adapter(model, base, place / "adapter"))


def _rows(options: argparse.Namespace, ways: list[list[Side]]) -> Iterator[list[str]]:
    for method in options.methods.split(","):
        for source, target in ways:
            cache = options.directory / "cache"
            shutil.rmtree(cache, ignore_errors=True)
            name = f"{method}, {source.model.parent.name} to {target.model.parent.name}"
            for state in ("empty", "full"):
                usage = _transferred(source, target, method, options, cache)
                figures = (usage.wall, usage.cpu, usage.others)
                print(name, state, *(f"{figure:.1f}" for figure in figures), file=sys.stderr)
                peak = f"{usage.anonymous / _MB:.0f}"
                yield [name, state, *(f"{figure:.1f}" for figure in figures), peak]
            shutil.rmtree(cache, ignore_errors=True)


def _transferred(
    source: Side, target: Side, method: str, options: argparse.Namespace, cache: Path
) -> process.Usage:
    command = [sys.executable, "-m", "loragraft", "transfer", str(source.adapter)]
    command += ["--source", str(source.model), "--target", str(target.model), "--force"]
    command += ["-o", str(options.directory / "transferred"), "--method", method]
    command += ["--subspace-rank", options.rank]
    return process.run(command, os.environ | {"LORAGRAFT_CACHE": str(cache)})


if __name__ == "__main__":
    main()

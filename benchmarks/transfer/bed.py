"""The test bed of transfer: real models, trained adapters, every method and control, one table.

    python bed.py MODELS DATA SOURCE TARGET OUT [--questions 300] [--judged 150]

MODELS holds the directories that models.py, continued.py and training.py made: a model NAME, its
adapter NAME_arc, and what transfers made for it, SOURCE_TARGET_METHOD. The target's own adapter is
the oracle. Scales are chosen on validation questions, all figures are of test questions.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Final

import numpy as np
from scoring import Scores, Subject
from tasks import Question, questions

SCALES: Final = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
_DRAWS: Final = 10_000


def main() -> None:
    """Measure everything that is there, and write it down."""
    arguments = _arguments()
    started = time.monotonic()
    models, pair = arguments.models, f"{arguments.source}_{arguments.target}_"
    found = sorted(models.glob(f"{pair}*/adapter_config.json"))
    adapters = {path.parent.name.removeprefix(pair): path.parent for path in found}
    if arguments.only:
        adapters = {name: adapters[name] for name in arguments.only.split(",")}
    oracle = models / f"{arguments.target}_arc"
    subject = Subject(models / arguments.target, {"oracle": oracle} | adapters)
    test = _drawn(questions(arguments.data, "test"), arguments.questions)
    judged = test[: arguments.judged]
    validation = _drawn(questions(arguments.data, "validation"), arguments.validation)
    subject.use(None)
    measured = {"base": _kept(subject.scores(test, judged), 1.0)}
    for name in ("oracle", *adapters):
        scale = 1.0
        if name != "oracle":
            scale = min(SCALES, key=lambda one: _validated(subject, name, one, validation))
        subject.use(name, scale)
        measured[name] = _kept(subject.scores(test, judged), scale)
        print(f"{name}: {np.mean(measured[name]['nats']):.3f}", flush=True)
        arguments.out.write_text(json.dumps(measured))
    print(table(measured, pair))
    print(f"{time.monotonic() - started:.0f} s")


def table(measured: dict[str, dict], pair: str) -> str:
    """Return the table: gap recovered with paired bootstrap intervals of 95 %."""
    base, oracle = (np.array(measured[one]["nats"]) for one in ("base", "oracle"))
    rng = np.random.default_rng(0)
    draws = rng.integers(len(base), size=(_DRAWS, len(base)))
    lines = [
        f"| {pair.rstrip('_')} | scale | nats per answer | gap recovered (95 %) | accuracy"
        " | right: difference (95 %) | answers changed | KL to base |",
        "|---|---|---|---|---|---|---|---|",
    ]
    chosen, right = (np.array(measured["base"][one]) for one in ("chosen", "right"))
    picked = rng.integers(len(right), size=(_DRAWS, len(right)))
    for name, one in measured.items():
        nats = np.array(one["nats"])
        share = (base - nats).mean() / (base - oracle).mean()
        spread = (base - nats)[draws].mean(axis=1) / (base - oracle)[draws].mean(axis=1)
        low, high = np.quantile(spread, [0.025, 0.975])
        changed = np.mean(np.array(one["chosen"]) != chosen)
        more = np.array(one["right"]) * 1.0 - right
        least, most = np.quantile(more[picked].mean(axis=1), [0.025, 0.975])
        gap = "" if name == "base" else f"{share:.1%} ({low:.1%} to {high:.1%})"
        better = "" if name == "base" else f"{more.mean():+.3f} ({least:+.3f} to {most:+.3f})"
        lines.append(
            f"| {name} | {one['scale']:g} | {nats.mean():.2f} | {gap} |"
            f" {np.mean(one['right']):.3f} | {better} | {changed:.1%} |"
            f" {np.mean(one['divergence']):.3f} |"
        )
    return "\n".join(lines)


def _validated(subject: Subject, name: str, scale: float, asked: list[Question]) -> float:
    subject.use(name, scale)
    return float(subject.nats(asked).mean())


def _kept(scores: Scores, scale: float) -> dict:
    return {
        "scale": scale,
        "nats": scores.nats.tolist(),
        "right": scores.right.tolist(),
        "chosen": scores.chosen.tolist(),
        "divergence": scores.divergence.tolist(),
    }


def _drawn(asked: list[Question], count: int) -> list[Question]:
    return random.Random(7).sample(asked, count)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("out", type=Path)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--judged", type=int, default=150)
    parser.add_argument("--validation", type=int, default=40)
    parser.add_argument("--only", help="names of methods and controls, separated by commas")
    return parser.parse_args()


if __name__ == "__main__":
    main()

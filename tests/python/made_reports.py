"""Reports made up for the tests of pages: an evaluation, and an extraction of 30,720 experts."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

EXPERT_LAYERS = 40
EXPERTS = 256
EXPERT_KINDS = ("gate_proj", "up_proj", "down_proj")
METRICS = ("acc", "acc_norm", "margin", "gold_log_likelihood")
#: Candidate and what it is compared with.
COMPARED = (("extracted", "base"), ("random", "base"), ("tuned", "base"), ("extracted", "random"))


def schema() -> dict[str, Any]:
    """The published schema of reports."""
    text = resources.files("loragraft.report").joinpath("schema", "report.schema.json").read_text()
    return json.loads(text)  # type: ignore[no-any-return]


def evaluation() -> dict[str, Any]:
    """The report of an evaluation with an adapter, a control and an oracle."""
    differences = {"extracted": 0.021, "random": -0.002, "tuned": 0.024}
    return {
        "schema": "loragraft.report/1",
        "command": "evaluate",
        "inputs": {
            "model": "/home/me/models/base", "tasks": ["arc_challenge"], "data": None,
            "limit": None, "oracle": "tuned", "dtype": "float32", "seed": 0,
        },
        "summary": {
            "verdict": "extracted is better than base by 2.1 points (95 %: 0.6 to 3.6)",
            "seconds": 512.25,
            "warnings": ["random changes 3% of the answers, but no more right than wrong"],
        },
        "candidates": [
            {"name": "base", "kind": "base", "path": "/home/me/models/base"},
            {"name": "extracted", "kind": "adapter", "path": "/home/me/out"},
            {"name": "random", "kind": "control", "path": "/home/me/out-random"},
            {"name": "tuned", "kind": "model", "path": "/home/me/models/tuned"},
        ],
        "tasks": [
            {
                "name": "arc_challenge",
                "questions": 1172,
                "candidates": [
                    {"name": name, "acc": 0.35 + more, "acc_norm": 0.38 + more,
                     "margin": -0.7 + 3 * more, "gold_log_likelihood": -9.1 + 5 * more,
                     "acc_stderr": 0.014, "acc_norm_stderr": 0.014}
                    for name, more in {"base": 0.0, **differences}.items()
                ],
            }
        ],
        "comparisons": [_comparison(*pair, differences) for pair in COMPARED],
        "fidelity": [
            {"candidate": name, "tokens": 4096, "kl": kl, "kl_base": 0.0312, "top1": 1 - kl,
             "perplexity": 11.2 + kl}
            for name, kl in (("extracted", 0.0021), ("random", 0.0313))
        ],
        "tensors": [],
        "modules": [],
    }  # fmt: skip


def _comparison(candidate: str, against: str, differences: dict[str, float]) -> dict[str, Any]:
    difference = differences[candidate] - differences.get(against, 0.0)
    times = {"acc": 1.0, "acc_norm": 0.8, "margin": 3.0, "gold_log_likelihood": 5.0}
    metrics = {
        name: {
            "value": 0.35 + difference, "other": 0.35, "difference": factor * difference,
            "low": factor * (difference - 0.015), "high": factor * (difference + 0.014),
            "p": 0.004, "p_holm": 0.012, "smallest_visible": 0.02, "answers": None, "gap": None,
        }
        for name, factor in times.items()
    }  # fmt: skip
    gap = {"value": difference / 0.024, "low": 0.31, "high": 1.4} if against == "base" else None
    metrics["acc"]["gap"] = gap
    if gap is not None:
        metrics["gold_log_likelihood"]["gap"] = {"value": 0.97, "low": 0.95, "high": 0.99}
    return {
        "task": "arc_challenge", "candidate": candidate, "against": against, "questions": 1172,
        "same": False, "metrics": metrics, "changed": 0.093, "gained": 66, "lost": 43,
        "smallest_visible": 0.024, "oracle": "tuned", "gap_recovered": gap, "family": 4,
        "finding": "better", "words": f"{candidate} differs by {100 * difference:.1f} points",
    }  # fmt: skip


def experts(layers: int = EXPERT_LAYERS, count: int = EXPERTS, values: int = 16) -> dict[str, Any]:
    """The report of an extraction from a 35B mixture of experts, a module for each expert."""
    modules, tensors = [], []
    for layer in range(layers):
        for expert in range(count):
            for number, kind in enumerate(EXPERT_KINDS):
                name = f"model.layers.{layer}.mlp.experts.{expert}.{kind}"
                energy = 0.6 + 0.3 * layer / layers + 0.001 * (expert % 50) + 0.01 * number
                modules.append(_module(name, kind, layer, energy, values))
                tensors.append(_tensor(f"{name}.weight", modules[-1]))
    norm = _tensor("model.norm.weight", None)
    return {
        "schema": "loragraft.report/1",
        "command": "extract",
        "inputs": {"base": "owner/moe", "tuned": "owner/moe-tuned", "rank": 16, "rank_rule": "16",
                   "max_rank": 16, "alpha": 16.0},
        "summary": {
            "verdict": f"rank 16 on {len(modules)} modules keeps 80.00% of the squared change",
            "counts": {"adapted": len(modules), "unchanged": 1, "saved_whole": 0, "left_out": 0},
            "bytes_read": 140_000_000_000, "bytes_written": 2_000_000_000, "seconds": 300.0,
            "energy": 0.8, "error": 0.447, "bit_exact": None, "warnings": [],
        },
        "tensors": [*tensors, norm],
        "modules": modules,
    }  # fmt: skip


def _module(name: str, kind: str, layer: int, energy: float, values: int) -> dict[str, Any]:
    return {
        "name": name, "kind": kind, "layer": layer, "shape": [512, 2048], "rank": 16, "alpha": 16.0,
        "delta_norm": 0.123456789 + 0.001 * layer, "weight_norm": 31.23456789, "energy": energy,
        "relative_error": (1 - energy) ** 0.5, "optimal_error": (1 - energy) ** 0.5 * 0.9999,
        "rounding_floor": 0.4 - 0.003 * layer,
        "singular_values": [0.08 / (place + 1) for place in range(values)],
        "bit_exact": None, "dtype": "F16", "seconds": 0.0123, "experts": 0, "recovery": None,
    }  # fmt: skip


def _tensor(name: str, module: dict[str, Any] | None) -> dict[str, Any]:
    change = 0.0 if module is None else module["delta_norm"] / module["weight_norm"]
    return {
        "name": name, "shape": [512, 2048] if module else [2048], "dtype_base": "BF16",
        "dtype_tuned": "BF16", "outcome": "adapted" if module else "unchanged",
        "why": "" if module else "equal on both sides", "relative_change": change,
    }  # fmt: skip

"""The model card: README.md of an adapter, with the figures that were measured on it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from loragraft import __version__
from loragraft.report.kinds import by_kind, gather
from loragraft.wording import counted, percent, span

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from loragraft.report.kinds import KindFigures
    from loragraft.report.model import Report

_HEADINGS = "| Modules | Count | Rank | Energy kept | Lowest | Relative error | Error / optimum |"
_COMMANDS = {
    "extract": "Extracted from the weights of two checkpoints, without training: each module is a"
    " truncated singular value decomposition of ΔW = W_tuned − W_base.",
    "transfer": "Transferred from an adapter of another model, without training.",
}


def model_card(report: Report, config: Mapping[str, Any]) -> str:
    """Return the README.md of an adapter.

    Local paths are shortened to their last component, so that a card that is published tells
    nothing of the machine it was made on.

    Args:
        report: The run that made the adapter.
        config: The adapter's ``adapter_config.json``.
    """
    inputs = report.inputs
    base = public_name(config.get("base_model_name_or_path") or inputs.get("base") or "unknown")
    sections = [
        front_matter(base),
        f"# LoRA adapter for {plain_text(base)}",
        _how(report),
        plain_text(public_sentence(report.summary.verdict)),
        "## How close it is",
        *_figures(report),
        "## How it was made",
        "\n".join(recipe(report.command, report.inputs)),
        "## How to use it",
        "" if _alone(report) else usage(base, config),
        _llama_cpp(report),
        _restoring(report),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _how(report: Report) -> str:
    """Return what was done, in a sentence."""
    exact = report.extra.get("exact")
    if exact and exact["modules"]["plain"] < len(report.modules):
        plain = exact["modules"]["plain"]
        others = f"; {plain} modules are a truncated singular value decomposition" if plain else ""
        return (
            "Extracted from the weights of two checkpoints, without training: factors that, added"
            f" to the base and rounded, give the weights of the tuned checkpoint{others}."
        )
    return _COMMANDS.get(report.command, f"Made by `loragraft {_code(report.command)}`.")


def _alone(report: Report) -> bool:
    """Whether the files are llama.cpp's alone."""
    return bool(report.inputs.get("format") == "gguf")


def _llama_cpp(report: Report) -> str:
    """Return how llama.cpp takes the adapter, where it was written for it."""
    gguf = report.extra.get("gguf")
    if not gguf:
        return ""
    text = f"In llama.cpp, on a GGUF of the base: `llama-cli -m BASE.gguf --lora {gguf['file']}`."
    if gguf["left_out"]:
        text += (
            f" That file lacks {counted(len(gguf['left_out']), 'module')}, which report.json lists."
        )
    return text


def _restoring(report: Report) -> str:
    """Return how the tuned checkpoint comes back, where a residual lies beside the adapter."""
    if not (report.extra.get("patch") or {}).get("written"):
        return ""
    return (
        "The tuned checkpoint comes back bit for bit with `loragraft merge BASE ADAPTER -o OUT"
        " --patch`."
    )


def public_name(reference: object) -> str:
    """Return a reference as it may be published: a Hub id whole, a local path's last component."""
    text = str(reference)
    local = text.startswith(("/", ".", "~")) or "\\" in text or text.count("/") > 1
    return (text.replace("\\", "/").rstrip("/").rpartition("/")[2] or "model") if local else text


def public_sentence(sentence: str) -> str:
    """Shorten the absolute paths in a sentence."""
    return " ".join(
        public_name(word) if word.startswith(("/", "~/")) else word for word in sentence.split(" ")
    )


def plain_text(text: str) -> str:
    """Return a text as one line that cannot open a tag, a table cell or a code span."""
    line = " ".join(text.split())
    return line.replace("<", "&lt;").replace("|", "\\|").replace("`", "'")


def _code(text: str) -> str:
    return " ".join(text.split()).replace("`", "'").replace("|", "\\|")


def front_matter(base: str) -> str:
    """Return the YAML in front of a card."""
    # JSON strings are YAML strings, whatever they contain.
    return "\n".join(
        [
            "---",
            f"base_model: {json.dumps(base)}",
            "base_model_relation: adapter",
            "library_name: peft",
            "tags:",
            "- lora",
            "- loragraft",
            "---",
        ]
    )


def _figures(report: Report) -> Iterator[str]:
    if not report.modules:
        yield "No module was adapted."
        return
    lines = [_HEADINGS, "|---|---:|---:|---:|---:|---:|---:|"]
    lines += [_row(figures) for figures in by_kind(report.modules)]
    lines.append(_row(gather("all", report.modules)))
    yield "\n".join(lines)
    yield (
        "Measured on the tensors as they are stored. *Energy kept* is the share of ‖ΔW‖² that the"
        " adapter reproduces, *lowest* that of the worst module, *relative error*"
        " ‖ΔW − scaling·B·A‖ / ‖ΔW‖. The *optimum* is the least error that the rank allows."
    )
    counts = ", ".join(
        f"{count} {plain_text(outcome).replace('_', ' ')}"
        for outcome, count in report.summary.counts.items()
        if count
    )
    yield f"Tensors of the checkpoint: {counts}. `report.json` lists every one of them."
    if report.summary.warnings:
        yield "\n".join(
            f"- {plain_text(public_sentence(warning))}" for warning in report.summary.warnings
        )


def _row(figures: KindFigures) -> str:
    ratio = "–" if figures.over_optimum is None else f"{figures.over_optimum:.4f}"
    cells = [
        plain_text(figures.kind),
        str(figures.modules),
        span(*figures.ranks),
        percent(figures.energy),
        percent(figures.lowest_energy),
        f"{figures.error:.3%}",
        ratio,
    ]
    return f"| {' | '.join(cells)} |"


def recipe(command: str, inputs: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of a table of the command and its options."""
    yield "| | |"
    yield "|---|---|"
    yield f"| loragraft | {__version__} |"
    yield f"| command | `{_code(command)}` |"
    for key, value in _options(inputs):
        yield f"| {plain_text(key)} | `{_code(value)}` |"


def _options(inputs: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Flatten the inputs to printable options; what is None or too long for a line is left out."""
    for key, value in inputs.items():
        if isinstance(value, dict):
            yield from _options(value)
        elif isinstance(value, (list, tuple)):
            text = ", ".join(public_name(item) for item in value)
            if text and len(text) < 200:
                yield str(key), text
        elif value is not None and value != "":
            yield str(key), public_name(value)


def usage(base: str, config: Mapping[str, Any]) -> str:
    """Return how to load an adapter, as a code block."""
    causal = config.get("task_type") in {"CAUSAL_LM", None}
    loader = "AutoModelForCausalLM" if causal else "AutoModel"
    name = json.dumps(base).replace("`", "'")
    return "\n".join(
        [
            "```python",
            "from peft import PeftModel",
            f"from transformers import {loader}",
            "",
            f"base = {loader}.from_pretrained({name})",
            'model = PeftModel.from_pretrained(base, "path/to/this/adapter")',
            "```",
            "",
            "Or make it part of the weights: `loragraft merge BASE ADAPTER -o OUT`.",
        ]
    )

"""The model card: README.md of a transferred adapter, with the figures that were measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loragraft.report.card import front_matter, plain_text, public_name, public_sentence, recipe
from loragraft.report.card import usage as usage_snippet
from loragraft.transferring.table import figures_table, removed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from loragraft.transferring.report import TransferReport


def transfer_card(report: TransferReport, config: Mapping[str, Any]) -> str:
    """Return the README.md of a transferred adapter; local paths are shortened.

    Args:
        report: The run that made it.
        config: The adapter's ``adapter_config.json``.
    """
    texts = report.inputs.get("calibration")
    how = "and without data" if texts is None else "on calibration texts that both models have read"
    sections = [
        f"Transferred from an adapter of another model, without training {how}.",
        plain_text(public_sentence(report.summary.verdict)),
        "## What is known of it",
        *_figures(report),
    ]
    return _card(report, config, sections)


def control_card(report: TransferReport, config: Mapping[str, Any], what: str) -> str:
    """Return the README.md of a control."""
    text = f"A control for a transferred adapter, not to be used: {what}."
    return _card(report, config, [plain_text(text)])


def _card(report: TransferReport, config: Mapping[str, Any], sections: list[str]) -> str:
    base = public_name(config.get("base_model_name_or_path") or "unknown")
    whole = [
        front_matter(base),
        f"# LoRA adapter for {plain_text(base)}",
        *sections,
        "## How it was made",
        "\n".join(recipe("transfer", report.inputs)),
        "## How to use it",
        usage_snippet(base, config),
    ]
    return "\n\n".join(whole) + "\n"


def _figures(report: TransferReport) -> Iterator[str]:
    table = figures_table(report)
    lines = [f"| {' | '.join(map(plain_text, table.columns))} |"]
    lines.append(f"|{'---|' * table.words}{'---:|' * (len(table.columns) - table.words)}")
    lines += [f"| {' | '.join(map(plain_text, row))} |" for row in (*table.rows, table.total)]
    yield "\n".join(lines)
    yield (
        "*Excess* is the similarity of the weights' singular subspaces above chance: 0 for"
        " unrelated weights, 1 for the same subspaces. *Norm kept* is ‖ΔW_t‖ / ‖ΔW_s‖, *by chance*"
        " the same for models that share nothing, *effect* ‖ΔW_t‖ / ‖W_t‖. None of them says how"
        " well the adapter works: evaluate it, beside the controls that `--controls` writes."
    )
    notes = [removed(one) for one in report.filters]
    notes += report.summary.warnings
    if notes:
        yield "\n".join(f"- {plain_text(public_sentence(note))}" for note in notes)

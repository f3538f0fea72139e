"""The model card of an adapter that was only laid out anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loragraft.report.card import front_matter, plain_text, public_name, usage

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def export_card(adapter: Path, config: Mapping[str, Any], layout: str) -> str:
    """Return the README.md of an adapter.

    Args:
        adapter: What it was made of.
        config: Its ``adapter_config.json``.
        layout: How its experts are laid out.
    """
    base = public_name(config.get("base_model_name_or_path") or "unknown")
    source = public_name(adapter.resolve())
    sections = [
        front_matter(base),
        f"# LoRA adapter for {plain_text(base)}",
        f"{plain_text(source)}, written again by `loragraft export --format {layout}`: the same"
        " change of every weight.",
        "## How to use it",
        usage(base, config),
    ]
    return "\n\n".join(sections) + "\n"

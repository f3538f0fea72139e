"""The documents of an adapter's directory: report, model card, and the config that ends them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from loragraft import system_calls
from loragraft.adapter.peft_config import CONFIG_FILE, GGUF_FILE, RESIDUAL_FILE
from loragraft.atomic_file import write_text_atomic
from loragraft.errors import FormatError
from loragraft.wording import reason, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loragraft.destination import Destination

#: Beside the tensors and the config; they tell of one run and must not outlive its adapter.
REPORT_FILE: Final = "report.json"
PAGE_FILE: Final = "report.html"
_CARD_FILE: Final = "README.md"


def retire(destination: Destination, keep: str = "") -> None:
    """Remove the documents of an adapter that is about to be replaced, its config first.

    Args:
        destination: Its directory.
        keep: The name of one that stays.

    Raises:
        FormatError: A file cannot be removed.
    """
    for name in (CONFIG_FILE, REPORT_FILE, PAGE_FILE, _CARD_FILE, RESIDUAL_FILE, GGUF_FILE):
        path = destination.directory / name
        if name == keep:
            continue
        try:
            system_calls.remove(path)
        except OSError as error:
            raise FormatError(f"{shown(path)}: cannot be removed: {reason(error)}") from error
    destination.sync()


def write_documents(
    destination: Destination,
    config: Mapping[str, Any] | None,
    report: Mapping[str, Any] | None,
    card: str,
) -> None:
    """Write the report, the model card, and last the config, which marks the adapter complete.

    Args:
        destination: The adapter's directory.
        config: Its ``adapter_config.json``; None where PEFT has no part in it.
        report: Its ``report.json``, of which ``report.html`` is made too; None for neither.
        card: Its ``README.md``.
    """
    if report is not None:
        write_report(destination, report)
    write_text_atomic(destination.file(_CARD_FILE), card)
    if config is not None:
        write_text_atomic(destination.file(CONFIG_FILE), dump(config))


def write_report(destination: Destination, report: Mapping[str, Any]) -> None:
    """Write ``report.json``, and the page for people, ``report.html``.

    Args:
        destination: The directory of both.
        report: Data of schema ``loragraft.report/1``.
    """
    # Templates take longer to load than a small adapter to extract.
    from loragraft.report.html import html_report  # noqa: PLC0415

    write_text_atomic(destination.file(REPORT_FILE), dump(report))
    write_text_atomic(destination.file(PAGE_FILE), html_report(report))


def dump(data: object) -> str:
    """Write data as JSON; NaN and Inf, which JSON lacks, are errors."""
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

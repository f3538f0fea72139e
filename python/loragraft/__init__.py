"""LoRA adapters made without training, out of weights alone.

The names below are looked up when they are first used, so that importing the package costs
next to nothing and needs no compiled extension.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loragraft import errors, linalg
    from loragraft.comparison import Comparison, compare
    from loragraft.evaluation import Evaluation, evaluate
    from loragraft.exporting import Export, export
    from loragraft.extraction import Extraction, extract
    from loragraft.inspection import inspect
    from loragraft.merging import merge
    from loragraft.transferring import Transfer, transfer
    from loragraft.verification import verify

__all__ = [
    "Comparison",
    "Evaluation",
    "Export",
    "Extraction",
    "Transfer",
    "__version__",
    "compare",
    "errors",
    "evaluate",
    "export",
    "extract",
    "inspect",
    "linalg",
    "merge",
    "transfer",
    "verify",
]

#: Packaging reads it here; to ask the installation for it would take longer than to work.
__version__ = "0.1.0"

_HOMES = {
    "Evaluation": "loragraft.evaluation",
    "Export": "loragraft.exporting",
    "Extraction": "loragraft.extraction",
    "Comparison": "loragraft.comparison",
    "Transfer": "loragraft.transferring",
    "compare": "loragraft.comparison",
    "evaluate": "loragraft.evaluation",
    "export": "loragraft.exporting",
    "extract": "loragraft.extraction",
    "inspect": "loragraft.inspection",
    "merge": "loragraft.merging",
    "transfer": "loragraft.transferring",
    "verify": "loragraft.verification",
}
_MODULES = ("errors", "linalg")


def __getattr__(name: str) -> object:
    """Import what is behind a public name (PEP 562).

    Raises:
        AttributeError: There is no such name.
    """
    from importlib import import_module  # noqa: PLC0415 -- as lazy as the rest

    value: object
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    elif name in _MODULES:
        value = import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

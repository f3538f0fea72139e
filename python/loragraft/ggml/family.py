"""The model families whose weights llama.cpp's files hold in a way that is known and proven."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from loragraft.errors import MismatchError
from loragraft.wording import listed, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

_DATA: Final = Path(__file__).with_name("families.json")


@dataclass(frozen=True, slots=True)
class GgmlFamily:
    """How llama.cpp names and orders the weights of a family.

    Attributes:
        arch: ``general.architecture`` of its files.
        model_types: Values of ``model_type`` in config.json.
        model_class: The class of transformers that loads the first of them.
        orders: End of a module's path -> in which order its rows or columns lie, see `row_order`.
        absent: Ends of paths that its blocks do not have, though the package ``gguf`` has names.
        interleaved: Rows of gate and up of experts alternate in transformers.
        fusable: Its files may have gate and up of experts in one tensor.
        readable: A model's GGUF can be read as the model; else adapters for it are written alone.
    """

    arch: str
    model_types: tuple[str, ...]
    model_class: str
    orders: Mapping[str, str] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    interleaved: bool = False
    fusable: bool = False
    readable: bool = True

    def order_of(self, module: str) -> str:
        """Return in which order a module's weight lies; empty where as in transformers."""
        return next((order for end, order in self.orders.items() if _ends(module, end)), "")


def _ends(module: str, end: str) -> bool:
    return module == end or module.endswith(f".{end}")


@cache
def families() -> tuple[GgmlFamily, ...]:
    """Return every family that is proven."""
    return tuple(
        GgmlFamily(
            arch=one["arch"],
            model_types=tuple(one["model_types"]),
            model_class=one["class"],
            orders=one.get("orders", {}),
            absent=tuple(one.get("absent", ())),
            interleaved=one.get("interleaved", False),
            fusable=one.get("fusable", False),
            readable=one.get("readable", True),
        )
        for one in json.loads(_DATA.read_text(encoding="utf-8"))
    )


def family_for(config: Mapping[str, Any] | None) -> GgmlFamily:
    """Return the family of a model.

    Args:
        config: Content of its config.json, None where there is none.

    Raises:
        MismatchError: It is not among those that are proven.
    """
    model_type = (config or {}).get("model_type")
    found = next((one for one in families() if model_type in one.model_types), None)
    if found is not None:
        return found
    known = sorted(name for one in families() for name in one.model_types)
    what = "no config.json says what model it is" if config is None else ""
    raise MismatchError(
        f"GGUF: {what or f'model_type {quoted(model_type)} is not proven with llama.cpp'}; expected"
        f" one of {listed(known)}"
    )


def family_of_arch(arch: str, *, has_experts: bool) -> GgmlFamily | None:
    """Return the family of a GGUF file, None where it is not proven.

    Args:
        arch: Its ``general.architecture``.
        has_experts: It has experts, which tells Mixtral from Llama.
    """
    found = [one for one in families() if one.arch == arch]
    return next((one for one in found[::-1] if has_experts), found[0] if found else None)


def text_config(config: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return the part of a config.json that tells of the language model."""
    whole = config or {}
    inner = whole.get("text_config")
    return inner if isinstance(inner, dict) else whole

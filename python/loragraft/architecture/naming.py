"""Module names as the model in memory has them, from the paths that the files have.

The two differ where a checkpoint was saved from the bare model (the files of GPT-2 say
``h.0.attn.c_attn``, GPT2LMHeadModel calls it ``transformer.h.0.attn.c_attn``) and where
transformers renames on loading. Adapters name modules as the class in config.json's
``architectures[0]`` does, because that is the class they are loaded on.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from loragraft.architecture.roles import Role
from loragraft.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from loragraft.architecture.families import Family


def name_modules(
    paths: Iterable[str],
    family: Family,
    config: Mapping[str, Any] | None,
    *,
    unique: bool = True,
) -> dict[str, str]:
    """Map module paths on disk to module names in memory.

    Args:
        paths: Every module path of the checkpoint that has a weight.
        family: The checkpoint's family.
        config: Content of config.json, None where there is none: then no prefix changes.
        unique: Whether every path must lead to a module of its own.

    Raises:
        FormatError: Two paths lead to the same module.
    """
    names = {path: _rename(path, family) for path in paths}
    architecture = first_architecture(config)
    if architecture is not None and family.backbone:
        prefix = f"{family.backbone}."
        if is_bare(architecture):
            names = {path: name.removeprefix(prefix) for path, name in names.items()}
        elif not any(name.startswith(prefix) for name in names.values()):
            names = {
                path: name if _is_head(name, family) else prefix + name
                for path, name in names.items()
            }
    if unique:
        _check_unique(names)
    return names


def _check_unique(names: Mapping[str, str]) -> None:
    taken: dict[str, str] = {}
    for path, name in names.items():
        if name in taken:
            raise FormatError(
                f"tensors {taken[name]}.weight and {path}.weight are the same module {name};"
                " expected one of them: remove the other from the checkpoint"
            )
        taken[name] = path


def first_architecture(config: Mapping[str, Any] | None) -> str | None:
    """Return ``architectures[0]`` of config.json, None where it is absent or no string."""
    architectures = None if config is None else config.get("architectures")
    if isinstance(architectures, list) and architectures and isinstance(architectures[0], str):
        return architectures[0]
    return None


def is_bare(architecture: str) -> bool:
    """Say whether a class is the bare model, without a head, such as GPT2Model."""
    return architecture.endswith("Model") and not architecture.endswith(
        ("LMHeadModel", "DoubleHeadsModel")
    )


def _rename(path: str, family: Family) -> str:
    for pattern, replacement in family.renames:
        path = re.sub(pattern, replacement, path)
    return path


def _is_head(name: str, family: Family) -> bool:
    return "." not in name and family.role(name) is Role.HEAD

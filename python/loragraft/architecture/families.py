"""Model families as data: one JSON file each under ``data/``, checked when it is read.

A family says what its names mean. ``generic`` holds what most families share; every other file
states only what differs, and serves the ``model_type`` values it lists.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from loragraft.architecture.expert_layout import parse_layouts
from loragraft.architecture.fused import parse_fused
from loragraft.architecture.roles import Role
from loragraft.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from loragraft.architecture.expert_layout import ExpertLayout
    from loragraft.architecture.fused import FusedRows

_DATA: Final = Path(__file__).parent / "data"
_GENERIC: Final = "generic"
_KEYS: Final = (
    "name",
    "model_types",
    "backbone",
    "roles",
    "transposed",
    "embeddings",
    "refused",
    "renames",
    "experts",
    "parameters",
    "unloaded",
    "splits",
    "fused",
)


@dataclass(frozen=True, slots=True)
class Family:
    """How the models of one family name and store their layers.

    A *suffix* is the end of a module path at a dot: ``attn.c_proj`` covers ``h.0.attn.c_proj``.

    Attributes:
        name: Also the name of the file it came from.
        model_types: Values of ``model_type`` in config.json that it serves.
        backbone: Attribute under which a class with a head holds the bare model, such as
            ``model`` in LlamaForCausalLM; empty where that is not known.
        roles: Suffix -> role; the longest suffix that fits decides.
        transposed: Suffixes of layers that store ``[in, out]``.
        embeddings: Shell patterns for the last path component of embeddings.
        refused: Suffix, or shell pattern of the whole path where it has a ``*`` -> why no adapter
            can be put on that layer.
        renames: (regex, replacement) from module paths on disk to those of the model in memory.
        experts: How the blocks' experts are named and stored; empty for dense models, and for
            those that hold each expert as linear layers of its own.
        parameters: Suffixes of layers, as named in memory, that PEFT reaches only as parameters.
        unloaded: Regexes found in the names of tensors that transformers does not load.
        splits: The model in memory has linear layers that no tensor is named after, because
            transformers takes others apart, or joins them, on loading.
        fused: Suffixes of layers that most models store as several -> the order of their rows.
    """

    name: str
    model_types: tuple[str, ...] = ()
    backbone: str = ""
    roles: Mapping[str, Role] = field(default_factory=dict)
    transposed: tuple[str, ...] = ()
    embeddings: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    renames: tuple[tuple[str, str], ...] = ()
    experts: tuple[ExpertLayout, ...] = ()
    parameters: tuple[str, ...] = ()
    unloaded: tuple[str, ...] = ()
    splits: bool = False
    fused: Mapping[str, FusedRows] = field(default_factory=dict)

    def role(self, module: str) -> Role | None:
        """Return the role that the longest fitting suffix gives, None where none fits."""
        suffix = _longest_suffix(module, self.roles)
        return None if suffix is None else self.roles[suffix]

    def is_transposed(self, module: str) -> bool:
        """Say whether the layer stores ``[in, out]`` instead of ``[out, in]``."""
        return _longest_suffix(module, self.transposed) is not None

    def is_embedding(self, module: str) -> bool:
        """Say whether the last component of the path, numbers aside, names an embedding."""
        words = (part for part in reversed(module.split(".")) if not part.isdigit())
        return _fits_any(next(words, ""), self.embeddings)

    def is_parameter(self, module: str) -> bool:
        """Say whether PEFT reaches the layer's weight only as a parameter of its module."""
        return _longest_suffix(module, self.parameters) is not None

    def fused_rows(self, module: str) -> FusedRows | None:
        """Return the order of the rows of a fused layer, None for any other."""
        suffix = _longest_suffix(module, self.fused)
        return None if suffix is None else self.fused[suffix]

    def why_refused(self, module: str) -> str | None:
        """Return why no adapter can be put on this layer, None where one can."""
        for pattern, why in self.refused.items():
            if "*" in pattern and fnmatchcase(module, pattern):
                return why
        suffix = _longest_suffix(module, self.refused)
        return None if suffix is None else self.refused[suffix]


def family_of(config: Mapping[str, Any] | None) -> Family:
    """Return the family that serves a model, ``generic`` where none does.

    Args:
        config: Content of config.json, None where there is none.
    """
    by_type = _families_by_type()
    model_type = None if config is None else config.get("model_type")
    if isinstance(model_type, str) and model_type in by_type:
        return by_type[model_type]
    return by_type[_GENERIC]


@cache
def _families_by_type() -> dict[str, Family]:
    """Map each ``model_type``, and the word ``generic``, to its family."""
    families = load_families(_DATA)
    by_type = {model_type: family for family in families for model_type in family.model_types}
    by_type[_GENERIC] = next(family for family in families if family.name == _GENERIC)
    return by_type


def load_families(directory: Path) -> tuple[Family, ...]:
    """Read and check every family file of a directory, sorted by file name.

    The roles and embeddings of ``generic`` are added to every family, under its own.

    Raises:
        FormatError: A file breaks the schema, ``generic.json`` is missing, or two families
            serve the same ``model_type``.
    """
    families = tuple(_read_family(path) for path in sorted(directory.glob("*.json")))
    generic = next((family for family in families if family.name == _GENERIC), None)
    if generic is None:
        raise FormatError(f"{directory}: {_GENERIC}.json is missing; reinstall loragraft")
    owners: dict[str, str] = {}
    for family in families:
        for model_type in family.model_types:
            if model_type in owners:
                raise FormatError(
                    f"{directory}: model_type {model_type!r} is served by {owners[model_type]}.json"
                    f" and by {family.name}.json; keep it in one of them"
                )
            owners[model_type] = family.name
    return tuple(
        replace(
            family,
            roles={**generic.roles, **family.roles},
            embeddings=tuple(dict.fromkeys((*family.embeddings, *generic.embeddings))),
        )
        for family in families
    )


def _read_family(path: Path) -> Family:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FormatError(f"{path}: not a readable JSON file ({error})") from None
    family = parse_family(data, str(path))
    if family.name != path.stem:
        raise FormatError(f"{path}: name is {family.name!r}, expected the file's, {path.stem!r}")
    return family


def parse_family(data: object, where: str) -> Family:
    """Check one family file's content against the schema and return it as a `Family`.

    Args:
        data: The parsed JSON.
        where: The file, for messages.

    Raises:
        FormatError: A key is unknown or missing, or a value has the wrong type or meaning.
    """
    if not isinstance(data, dict):
        raise FormatError(f"{where}: got {type(data).__name__}, expected a JSON object")
    unknown = sorted(set(data) - set(_KEYS))
    if unknown:
        raise FormatError(f"{where}: unknown key {unknown[0]!r}, expected {', '.join(_KEYS)}")
    name = data.get("name")
    if not isinstance(name, str) or not name:
        raise FormatError(f"{where}: key 'name' must be a non-empty string, got {name!r}")
    backbone = data.get("backbone", "")
    if not isinstance(backbone, str):
        raise FormatError(f"{where}: key 'backbone' must be a string, got {backbone!r}")
    return Family(
        name=name,
        model_types=_strings(data, "model_types", where),
        backbone=backbone,
        roles={suffix: _role(role, where) for suffix, role in _table(data, "roles", where)},
        transposed=_strings(data, "transposed", where),
        embeddings=_strings(data, "embeddings", where),
        refused=dict(_table(data, "refused", where)),
        renames=_renames(data, where),
        experts=parse_layouts(data.get("experts"), where),
        parameters=_strings(data, "parameters", where),
        unloaded=_regexes(data, "unloaded", where),
        splits=_flag(data, "splits", where),
        fused=parse_fused(data, where),
    )


def _strings(data: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    values = data.get(key, [])
    if not isinstance(values, list) or not all(isinstance(v, str) and v for v in values):
        raise FormatError(f"{where}: key {key!r} must be a list of non-empty strings")
    return tuple(values)


def _flag(data: Mapping[str, Any], key: str, where: str) -> bool:
    value = data.get(key, False)
    if not isinstance(value, bool):
        raise FormatError(f"{where}: key {key!r} must be true or false, got {value!r}")
    return value


def _regexes(data: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    patterns = _strings(data, key, where)
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise FormatError(f"{where}: {key} {pattern!r} is no regex ({error})") from None
    return patterns


def _table(data: Mapping[str, Any], key: str, where: str) -> list[tuple[str, str]]:
    table = data.get(key, {})
    if not isinstance(table, dict) or not all(
        suffix and isinstance(value, str) and value for suffix, value in table.items()
    ):
        raise FormatError(f"{where}: key {key!r} must map non-empty strings to non-empty strings")
    return list(table.items())


def _role(role: str, where: str) -> Role:
    try:
        return Role(role)
    except ValueError:
        known = ", ".join(r.value for r in Role)
        raise FormatError(f"{where}: unknown role {role!r}, expected one of {known}") from None


def _renames(data: Mapping[str, Any], where: str) -> tuple[tuple[str, str], ...]:
    pairs = data.get("renames", [])
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(p, str) for p in pair)
        for pair in pairs
    ):
        raise FormatError(f"{where}: key 'renames' must be a list of [regex, replacement] pairs")
    for pattern, replacement in pairs:
        try:
            re.compile(pattern).sub(replacement, "")
        except (re.error, IndexError) as error:
            raise FormatError(
                f"{where}: rename {pattern!r} -> {replacement!r} is no regex ({error})"
            ) from None
    return tuple((pattern, replacement) for pattern, replacement in pairs)


def _longest_suffix(module: str, suffixes: Container[str]) -> str | None:
    """Return the longest of the suffixes that ends the path at a dot."""
    rest = module
    while rest not in suffixes:
        _, dot, rest = rest.partition(".")
        if not dot:
            return None
    return rest


@lru_cache(maxsize=4096)
def _fits_any(word: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(word, pattern) for pattern in patterns)

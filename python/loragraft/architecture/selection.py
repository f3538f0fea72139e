"""Which linear layers to adapt: what the options say, and the layers that they choose."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from loragraft.architecture.modules import STACKED_EXPERTS, Role
from loragraft.errors import MismatchError, NothingToAdaptError, UsageError

if TYPE_CHECKING:
    from loragraft.architecture.modules import Inventory, LinearModule

ALL_LINEAR: Final = "all-linear"
_REGEX: Final = "re:"
_EXPERTS: Final = "experts"
_PRESETS: Final = {"attention": Role.ATTENTION, "mlp": Role.MLP, _EXPERTS: Role.EXPERTS}
_NAME: Final = re.compile(r"[A-Za-z0-9_\-]+(\.[A-Za-z0-9_\-]+)*")
_RANGE: Final = re.compile(r"\s*(\d{1,6})\s*(?:-\s*(\d{1,6})\s*)?", re.ASCII)
_SKIPPED_EXPERTS: Final = "experts are skipped"


class Selection(NamedTuple):
    """What to adapt.

    An entry of ``target_modules`` or ``exclude`` is ``all-linear`` (every linear layer but heads
    and routers), a role (``attention``, ``mlp``, ``experts``), a suffix of the module name at a
    dot (``q_proj``, ``mlp.c_proj``, ``lm_head``, or the full name), or ``re:`` and a regular
    expression that is searched for in the module name. Suffixes and expressions are taken at
    their word: they may name heads and routers.

    Attributes:
        target_modules: Layers that any of these entries names are adapted,
        exclude: less those that any of these names,
        layers: less those outside these blocks; None for no limit.
        experts: False leaves out expert layers, one by one or stacked.
    """

    target_modules: tuple[str, ...] = (ALL_LINEAR,)
    exclude: tuple[str, ...] = ()
    layers: frozenset[int] | None = None
    experts: bool = True


def parse_selection(
    target_modules: str, exclude: str | None, layers: str | None, *, experts: bool = True
) -> Selection:
    """Read the selection options.

    Args:
        target_modules: ``all-linear``, roles and suffixes separated by commas, or ``re:REGEX``
            (the rest of the text is the expression, commas included).
        exclude: The same, or None.
        layers: Block numbers and ranges, both ends included, such as ``0-11,20``; None for all.
        experts: False to leave out the experts.

    Raises:
        UsageError: Empty text, a malformed expression, name or range.
    """
    return Selection(
        target_modules=_parse_entries(target_modules, "--target-modules"),
        exclude=() if exclude is None else _parse_entries(exclude, "--exclude"),
        layers=None if layers is None else _parse_layers(layers),
        experts=experts,
    )


def select(
    inventory: Inventory, selection: Selection
) -> tuple[tuple[LinearModule, ...], dict[str, str]]:
    """Choose the layers to adapt.

    Returns:
        The chosen layers in the inventory's order, and for every other tensor of the checkpoint
        its name -> why it is left out.

    Raises:
        UsageError: An entry names no layer, or a block number does not exist.
        NothingToAdaptError: The options together leave no layer.
        MismatchError: Experts are asked for, and how they are stored is not known.
    """
    _check_experts(inventory, selection)
    _check_entries(inventory, selection)
    _check_layers(inventory, selection)
    chosen: list[LinearModule] = []
    left_out = {
        name: _SKIPPED_EXPERTS if why == STACKED_EXPERTS and not selection.experts else why
        for name, why in inventory.others.items()
    }
    named = tuple(e for e in inventory.embeddings if _is_named(e, selection.target_modules))
    for linear in (*inventory.linears, *named):
        why = _why_left_out(linear, selection)
        if why is None:
            chosen.append(linear)
        else:
            left_out.update(dict.fromkeys(linear.tensors, why))
    if not chosen:
        raise NothingToAdaptError(
            f"no linear layer is left to adapt: {_describe(selection)} chooses none of"
            f" {len(inventory.linears)}; the model has {_kinds(inventory)}; widen the selection"
        )
    return tuple(chosen), left_out


def _parse_entries(text: str, option: str) -> tuple[str, ...]:
    if text.startswith(_REGEX):
        pattern = text.removeprefix(_REGEX)
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise UsageError(f"{option}: {pattern!r} is no regular expression: {error}") from None
        if not pattern:
            raise UsageError(f"{option}: the expression after {_REGEX} is empty")
        return (text,)
    entries = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for entry in entries:
        if not _NAME.fullmatch(entry):
            raise UsageError(
                f"{option}: got {entry!r}, expected {ALL_LINEAR}, {', '.join(_PRESETS)}, module"
                f" names separated by commas, or {_REGEX}REGEX"
            )
    return entries


def _parse_layers(text: str) -> frozenset[int]:
    numbers: set[int] = set()
    for part in text.split(","):
        match = _RANGE.fullmatch(part)
        if match is None:
            raise UsageError(f"--layers: got {part.strip()!r}, expected numbers such as 0-11,20")
        first = int(match[1])
        last = first if match[2] is None else int(match[2])
        if last < first:
            raise UsageError(f"--layers: the range {part.strip()} ends before it starts")
        numbers.update(range(first, last + 1))
    return frozenset(numbers)


def _names(entry: str, linear: LinearModule) -> bool:
    """Say whether an entry of a selection names a layer."""
    if entry == ALL_LINEAR:
        return linear.role not in {Role.HEAD, Role.ROUTER, Role.EMBEDDING}
    if entry in _PRESETS:
        return linear.role is _PRESETS[entry]
    if entry.startswith(_REGEX):
        return re.search(entry.removeprefix(_REGEX), linear.name) is not None
    on_disk = linear.tensor.removesuffix(".weight")
    names = (linear.name, on_disk, linear.kind)
    return any(f".{name}".endswith(f".{entry}") for name in names)


def _is_named(linear: LinearModule, entries: tuple[str, ...]) -> bool:
    return any(_names(entry, linear) for entry in entries)


def _why_left_out(linear: LinearModule, selection: Selection) -> str | None:
    if linear.role is Role.EXPERTS and not selection.experts:
        return _SKIPPED_EXPERTS
    if not _is_named(linear, selection.target_modules):
        if selection.target_modules == (ALL_LINEAR,):
            return f"{linear.role.value}: not part of {ALL_LINEAR}, name it to adapt it"
        return "not among the target modules"
    if _is_named(linear, selection.exclude):
        return "excluded"
    if selection.layers is not None and linear.layer not in selection.layers:
        return "outside the chosen layers"
    return None


def _check_experts(inventory: Inventory, selection: Selection) -> None:
    """Refuse to leave experts out in silence because nobody knows how they are stored."""
    wanted = {ALL_LINEAR, _EXPERTS}.intersection(selection.target_modules)
    if (
        inventory.unknown_experts
        and selection.experts
        and wanted
        and (_EXPERTS not in selection.exclude)
    ):
        raise MismatchError(inventory.unknown_experts)


def _check_entries(inventory: Inventory, selection: Selection) -> None:
    """Refuse an entry that names nothing: it is a slip, and would change the result unseen."""
    options = {"--target-modules": selection.target_modules, "--exclude": selection.exclude}
    for option, entries in options.items():
        for entry in entries:
            modules = (*inventory.linears, *inventory.embeddings)
            if entry == ALL_LINEAR or any(_names(entry, linear) for linear in modules):
                continue
            if option == "--exclude" and entry in _PRESETS:
                continue
            raise UsageError(
                f"{option}: {entry!r} matches no module; there are {_kinds(inventory)}"
                + _why_no_experts(entry, inventory)
            )


def _why_no_experts(entry: str, inventory: Inventory) -> str:
    """Return why experts that are there cannot be adapted, where they are asked for."""
    if entry != _EXPERTS:
        return ""
    whys = sorted({why for name, why in inventory.others.items() if "experts" in name.split(".")})
    return f"; the experts: {whys[0]}" if whys else ""


def _check_layers(inventory: Inventory, selection: Selection) -> None:
    if selection.layers is None:
        return
    there = {linear.layer for linear in inventory.linears if linear.layer is not None}
    unknown = sorted(selection.layers - there)
    if unknown:
        span = f"{min(there)} to {max(there)}" if there else "none"
        raise UsageError(f"--layers: there is no layer {unknown[0]}; the model's are {span}")


def _kinds(inventory: Inventory) -> str:
    kinds = sorted({linear.kind for linear in inventory.linears})
    return ", ".join(kinds) if kinds else "no linear layers"


def _describe(selection: Selection) -> str:
    """Write a selection as the options that make it."""
    text = f"--target-modules {','.join(selection.target_modules)}"
    if selection.exclude:
        text += f" --exclude {','.join(selection.exclude)}"
    if selection.layers is not None:
        text += " --layers " + ",".join(str(layer) for layer in sorted(selection.layers))
    return text if selection.experts else f"{text} --skip-3d True"

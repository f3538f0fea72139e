"""The command that made a report, put together from what the report says of its inputs."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, Final

from loragraft.report.card import public_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: Arguments without an option's name, by command.
_ARGUMENTS: Final[Mapping[str, tuple[str, ...]]] = {
    "extract": ("base", "tuned"),
    "verify": ("base", "tuned", "adapter"),
    "transfer": ("adapter",),
    "compare": ("a", "b"),
    "evaluate": ("model",),
}
#: What nobody has to say.
_DEFAULTS: Final[Mapping[str, Any]] = {
    "dtype": "auto",
    "target_modules": ["all-linear"],
    "oversampling": 8,
    "seed": 0,
    "moe_layout": "peft",
    "save_whole": "none",
    "method": "auto",
    "layer_map": "auto",
    "scale": 1.0,
    "batch_size": "auto",
}
#: Told by other options, or by the files.
_SILENT: Final = frozenset({"rank_rule", "control", "experts"})
_SINGULAR: Final[Mapping[str, str]] = {"adapters": "adapter", "models": "model", "tasks": "task"}


def command_line(command: str, inputs: Mapping[str, Any]) -> str:
    """Return the command as it is typed, defaults left out and local paths shortened.

    Args:
        command: Such as ``extract``.
        inputs: Of the report.
    """
    positions = _ARGUMENTS.get(command, ())
    words = ["loragraft", command]
    words += [public_name(inputs[name]) for name in positions if inputs.get(name)]
    for key, value in _chosen(inputs).items():
        if key not in positions:
            words += _option(key, value)
    return shlex.join(words)


def _chosen(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs that were chosen, as the command line knows them."""
    chosen = {key: value for key, value in inputs.items() if _DEFAULTS.get(key) != _listed(value)}
    if "rank_rule" in inputs:
        chosen |= {"rank": inputs["rank_rule"]}
        if str(inputs["rank_rule"]).replace(",", "").isdigit():
            chosen.pop("max_rank", None)
    if inputs.get("alpha") == inputs.get("rank"):
        chosen.pop("alpha", None)
    if inputs.get("experts") is False:
        chosen["skip_3d"] = "True"
    return {key: value for key, value in chosen.items() if key not in _SILENT}


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _option(key: str, value: Any) -> Iterator[str]:
    """Yield an option and what it was given; nothing for what was not given."""
    name = f"--{_SINGULAR.get(key, key).replace('_', '-')}"
    if value is None or value is False or value == "":
        return
    if value is True:
        yield name
    elif isinstance(value, dict):
        for one, path in value.items():
            yield from (name, f"{one}={public_name(path)}")
    elif key in _SINGULAR and isinstance(value, (list, tuple)):
        for one in value:
            yield from (name, public_name(one))
    elif isinstance(value, (list, tuple)):
        if value:
            yield from (name, ",".join(public_name(one) for one in value))
    elif isinstance(value, float):
        yield from (name, f"{value:g}")
    else:
        yield from (name, public_name(value))

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
#: Told by other options, or by other parts of the report.
_SILENT: Final = frozenset({"rank_rule", "control", "experts", "adapters", "models", "controls"})
#: Patterns, which look like paths and are none.
_PATTERNS: Final = frozenset({"target_modules", "exclude"})
_SINGULAR: Final[Mapping[str, str]] = {"tasks": "task"}


def command_line(data: Mapping[str, Any]) -> str:
    """Return the command as it is typed, defaults left out and local paths shortened.

    Args:
        data: Of a report.
    """
    command, inputs = str(data["command"]), data["inputs"]
    positions = _ARGUMENTS.get(command, ())
    words = ["loragraft", command]
    words += [public_name(inputs[name]) for name in positions if inputs.get(name)]
    for key, value in _chosen(inputs).items():
        if key not in positions:
            words += _option(key, value)
    for one in data.get("candidates", ()):
        if one["kind"] != "base":
            words += (f"--{one['kind']}", f"{one['name']}={public_name(one['path'])}")
    return shlex.join(words)


def _chosen(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs that were chosen, as the command line knows them."""
    chosen = {key: value for key, value in inputs.items() if _DEFAULTS.get(key) != _plain(value)}
    if "rank_rule" in inputs:
        chosen["rank"] = inputs["rank_rule"]
        if str(inputs["rank_rule"]).replace(",", "").isdigit():
            chosen.pop("max_rank", None)
    if inputs.get("alpha") == inputs.get("rank"):
        chosen.pop("alpha", None)
    if inputs.get("experts") is False:
        chosen["skip_3d"] = "True"
    return {key: value for key, value in chosen.items() if key not in _SILENT}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _option(key: str, value: Any) -> Iterator[str]:
    """Yield an option and what it was given; nothing for what was not given."""
    name = f"--{_SINGULAR.get(key, key).replace('_', '-')}"
    if isinstance(value, (list, tuple)):
        texts = [str(one) if key in _PATTERNS else public_name(one) for one in value]
        for text in texts if key in _SINGULAR else filter(None, [",".join(texts)]):
            yield from (name, text)
    elif value is True:
        yield name
    elif isinstance(value, float):
        yield from (name, f"{value:g}")
    elif isinstance(value, (str, int)) and value is not False and value != "":
        yield from (name, public_name(value))

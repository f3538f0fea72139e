"""What PEFT's files are called, and the ``adapter_config.json`` of an adapter that is written."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from loragraft.adapter.embedding import embedding_keys
from loragraft.adapter.target_modules import MAX_ENTRIES, exact_regex, target_modules
from loragraft.architecture.naming import first_architecture
from loragraft.errors import NothingToAdaptError
from loragraft.natural_order import natural_key

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from loragraft.architecture.address import Address

TENSORS_FILE: Final = "adapter_model.safetensors"
#: Ours: what merging does not give of the tuned checkpoint.
RESIDUAL_FILE: Final = "residual.safetensors"
#: The adapter as llama.cpp loads it.
GGUF_FILE: Final = "adapter.gguf"
CONFIG_FILE: Final = "adapter_config.json"
#: In the metadata of the tensor file: how experts are laid out, ``peft`` or ``peft-legacy``. PEFT
#: would warn of an unknown key in its config.
LAYOUT_KEY: Final = "loragraft.moe_layout"


class WrittenModule(NamedTuple):
    """What adapter_config.json must say about one module.

    Attributes:
        name: Module path in the model; of the parameter where experts share one.
        rank: Rank of its factors, of each expert's where there are several.
        alpha: Its alpha; PEFT scales by alpha / rank.
        transposed: The model's layer stores ``[in, out]`` (Conv1D).
        address: How PEFT reaches it; None for the layer ``name``.
    """

    name: str
    rank: int
    alpha: float
    transposed: bool
    address: Address | None = None

    @property
    def parameter(self) -> str:
        """Full name of the parameter that it is reached as; empty for a layer."""
        if self.address is None or not self.address.parameter:
            return ""
        return f"{self.address.module}.{self.address.parameter}"


def factor_keys(module_name: str, depth: int = 0) -> tuple[str, str]:
    """Return the tensor names of a module's A and B in PEFT's file.

    Args:
        module_name: Path of the module.
        depth: How many of PEFT's wrappers of the module lie around this one.
    """
    stem = f"base_model.model.{module_name}" + ".base_layer" * depth
    return f"{stem}.lora_A.weight", f"{stem}.lora_B.weight"


def keys_of(addresses: Iterable[Address]) -> dict[Address, tuple[str, str]]:
    """Return the tensor names of A and B for all weights of an adapter.

    Parameters of one module are wrapped one around the other in their order, so the names of one
    depend on which others the adapter has.
    """
    together: dict[str, list[Address]] = {}
    for address in addresses:
        together.setdefault(address.module, []).append(address)
    keys = {}
    for module, found in together.items():
        outermost_first = sorted(found, key=lambda address: -address.order)
        for depth, address in enumerate(outermost_first):
            keys[address] = factor_keys(module, depth)
            if address.embedding:
                keys[address] = embedding_keys(module)
    return keys


def task_type(config: Mapping[str, Any] | None) -> str | None:
    """Return PEFT's task type for the class that a model's config.json names.

    A classifier gets none: with ``SEQ_CLS`` PEFT expects the whole ``score`` or ``classifier``
    layer in the file and fails without it.

    Args:
        config: Content of the model's config.json, None where there is none.

    Returns:
        ``CAUSAL_LM``, or None, with which PEFT adapts any class.
    """
    architecture = first_architecture(config)
    if architecture is not None and architecture.endswith(("ForCausalLM", "LMHeadModel")):
        return "CAUSAL_LM"
    return None


def adapter_config(
    modules: Sequence[WrittenModule],
    *,
    base_model: str,
    rank: int,
    alpha: float,
    all_linear_names: Collection[str],
    task_type: str | None,
    has_experts: bool = False,
    knows_all: bool = True,
) -> dict[str, Any]:
    """Return adapter_config.json: a LoraConfig that PEFT 0.19.1 and later read.

    Args:
        modules: The modules in the file.
        base_model: Path or Hub id of the base model.
        rank: Rank of the modules that do not deviate; the largest one, for serving engines that
            size their buffers by it.
        alpha: Alpha of the modules that do not deviate.
        all_linear_names: Names of the model's linear layers, adapted or not, and of any other
            modules that are known: ``target_modules`` avoids them.
        task_type: PEFT's task type, see `task_type`.
        has_experts: The model has experts, adapted or not.
        knows_all: ``all_linear_names`` are all; False where the model in memory may have others.

    Raises:
        NothingToAdaptError: There are no modules.
    """
    if not modules:
        raise NothingToAdaptError("an adapter needs at least one module, got none")
    names = {*all_linear_names, *(module.name for module in modules)}
    layers = [module for module in modules if not module.parameter]
    parameters = [module.parameter for module in modules if module.parameter]
    longer = _ends_of_longer({*names, *parameters})
    ranks = {module: module.rank for module in modules if module.rank != rank}
    alphas = {module: _whole(module.alpha) for module in modules if module.alpha != alpha}
    return {
        "peft_type": "LORA",
        "task_type": task_type,
        "base_model_name_or_path": base_model,
        "auto_mapping": None,
        "revision": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": _whole(alpha),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": any(module.transposed for module in layers),
        "target_modules": _target_modules(
            layers, names, listed=has_experts or bool(parameters), knows_all=knows_all
        ),
        **({"target_parameters": sorted(parameters, key=natural_key)} if parameters else {}),
        "exclude_modules": None,
        "modules_to_save": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "rank_pattern": _patterns(ranks, {m.name: m.rank for m in layers}, longer),
        "alpha_pattern": _patterns(alphas, {m.name: _whole(m.alpha) for m in layers}, longer),
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
    }


def _target_modules(
    layers: Sequence[WrittenModule], names: Collection[str], *, listed: bool, knows_all: bool
) -> list[str] | str:
    """Return the entry for the layers; a list without any says that none is wanted.

    For models with experts PEFT 0.19 to 0.21 reduces a regular expression to the last components of
    what it matches, in whatever block, so a list is kept there however long.
    """
    if not layers:
        return []
    chosen = [module.name for module in layers]
    most = sys.maxsize if listed else MAX_ENTRIES
    return target_modules(chosen, names, most, suffixes=knows_all)


def _patterns(
    deviating: Mapping[WrittenModule, float],
    layers: Mapping[str, float],
    longer: Collection[str],
) -> dict[str, float]:
    """Return rank_pattern or alpha_pattern: regular expression -> value; the first match counts.

    PEFT warns that keys which match no layer are ignored, though it follows them for parameters. So
    a key of parameters also matches a layer whose own value stands in front of it.

    Args:
        deviating: Modules whose value is not the common one.
        layers: The values of all layers.
        longer: Names that are the end of another name.
    """
    table: dict[str, float] = {}
    groups: dict[float, list[str]] = {}
    for module, value in deviating.items():
        if module.parameter:
            groups.setdefault(value, []).append(module.parameter)
        else:
            table[_key([module.name], longer)] = value
    for value, names in groups.items():
        anchor = next((name for name, own in layers.items() if own == value), None)
        anchor = anchor or next(iter(layers), None)
        if anchor is not None:
            table.setdefault(_key([anchor], longer), layers[anchor])
            names.append(anchor)
        table[_key(names, longer)] = value
    return table


def _key(names: Sequence[str], longer: Collection[str]) -> str:
    """Return the expression for these full names; PEFT would allow more in front of it."""
    return ("^" if any(name in longer for name in names) else "") + exact_regex(names)


def _ends_of_longer(names: Collection[str]) -> set[str]:
    """Return the proper ends, at a dot, of these names."""
    return {name[dot.end() :] for name in names for dot in re.finditer(r"\.", name)}


def _whole(value: float) -> float:
    """Return a number as an int where it is one; PEFT and servers expect integers."""
    return int(value) if float(value).is_integer() else value

"""What PEFT's files are called, and the ``adapter_config.json`` of an adapter that is written."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from loragraft.adapter.target_modules import target_modules
from loragraft.architecture.naming import first_architecture
from loragraft.errors import NothingToAdaptError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

TENSORS_FILE: Final = "adapter_model.safetensors"
CONFIG_FILE: Final = "adapter_config.json"


class WrittenModule(NamedTuple):
    """What adapter_config.json must say about one module.

    Attributes:
        name: Module path in the model.
        rank: Rank of its factors.
        alpha: Its alpha; PEFT scales by alpha / rank.
        transposed: The model's layer stores ``[in, out]`` (Conv1D).
    """

    name: str
    rank: int
    alpha: float
    transposed: bool


def factor_keys(module_name: str) -> tuple[str, str]:
    """Return the tensor names of a module's A and B in PEFT's file."""
    stem = f"base_model.model.{module_name}"
    return f"{stem}.lora_A.weight", f"{stem}.lora_B.weight"


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

    Raises:
        NothingToAdaptError: There are no modules.
    """
    if not modules:
        raise NothingToAdaptError("an adapter needs at least one module, got none")
    names = {*all_linear_names, *(module.name for module in modules)}
    longer = _ends_of_longer(names)
    keys = {m.name: ("^" if m.name in longer else "") + re.escape(m.name) for m in modules}
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
        "fan_in_fan_out": any(module.transposed for module in modules),
        "target_modules": target_modules([module.name for module in modules], names),
        "exclude_modules": None,
        "modules_to_save": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "rank_pattern": {keys[m.name]: m.rank for m in modules if m.rank != rank},
        "alpha_pattern": {keys[m.name]: _whole(m.alpha) for m in modules if m.alpha != alpha},
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
    }


def _ends_of_longer(names: Collection[str]) -> set[str]:
    """Return the proper ends, at a dot, of these names."""
    return {name[dot.end() :] for name in names for dot in re.finditer(r"\.", name)}


def _whole(value: float) -> float:
    """Return a number as an int where it is one; PEFT and servers expect integers."""
    return int(value) if float(value).is_integer() else value

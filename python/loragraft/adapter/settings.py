"""What an adapter's config says about ranks and scales, and whether its change is plain LoRA."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from loragraft.adapter.automaton import Budget
from loragraft.adapter.name_patterns import NamePatterns
from loragraft.errors import FormatError
from loragraft.wording import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_Number = TypeVar("_Number", int, float)

#: Settings under which the change of a weight is not scaling·B·A of the file's factors.
_NOT_PLAIN: Final = (
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "kasa_config",
    "monteclora_config",
    "arrow_config",
    "alora_invocation_tokens",
    "layer_replication",
    "megatron_config",
)
#: Settings that are true or false; null is as good as leaving one out.
_FLAGS: Final = ("use_rslora", "ensure_weight_tying")
#: Values of init_lora_weights that also change the base weights when the adapter is loaded.
_MOVES_BASE: Final = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a LoraConfig says about ranks and scales."""

    r: int
    lora_alpha: float
    rslora: bool
    ranks: NamePatterns[int]
    alphas: NamePatterns[float]
    where: str

    @classmethod
    def parse(cls, config: Mapping[str, Any], where: str) -> Settings:
        """Check a config and take the settings out of it; FormatError where it cannot be used."""
        _check_plain(config, where)
        _check_types(config, where)
        budget = Budget()
        return cls(
            r=_rank(config.get("r", 8), "r", where),
            lora_alpha=_alpha(config.get("lora_alpha", 8), "lora_alpha", where),
            rslora=bool(config.get("use_rslora")),
            ranks=_patterns(config, "rank_pattern", _rank, budget, where),
            alphas=_patterns(config, "alpha_pattern", _alpha, budget, where),
            where=where,
        )

    def rank(self, module: str) -> int:
        """Return the module's rank: of the first pattern that matches, as PEFT does."""
        rank = self._found(self.ranks, module)
        return self.r if rank is None else rank

    def alpha(self, module: str) -> float:
        """Return the module's alpha: of the first pattern that matches, as PEFT does."""
        alpha = self._found(self.alphas, module)
        return self.lora_alpha if alpha is None else alpha

    def _found(self, patterns: NamePatterns[_Number], module: str) -> _Number | None:
        try:
            return patterns.find(module)
        except ValueError as error:
            raise FormatError(
                f"{self.where}: rank_pattern or alpha_pattern on module {quoted(module)}: {error};"
                " expected names of modules or simple regular expressions"
            ) from None


def _check_plain(config: Mapping[str, Any], where: str) -> None:
    """Refuse adapters whose change is not scaling·B·A on an untouched base."""
    kind = config.get("peft_type")
    if kind != "LORA":
        raise FormatError(f"{where}: peft_type is {quoted(kind)}, expected 'LORA'")
    for key in _NOT_PLAIN:
        if config.get(key):
            raise FormatError(
                f"{where}: {key} is {quoted(config[key])}, expected plain LoRA without it: merge"
                " the adapter with PEFT instead"
            )
    init = config.get("init_lora_weights")
    if isinstance(init, str) and init.lower().startswith(_MOVES_BASE):
        raise FormatError(
            f"{where}: init_lora_weights is {quoted(init)}, which changes the base weights too:"
            " convert the adapter to plain LoRA with PEFT (save_pretrained with"
            " path_initial_model_for_weight_conversion)"
        )


def _check_types(config: Mapping[str, Any], where: str) -> None:
    """Refuse settings of other types, which readers take for true or false as they please."""
    for key in _FLAGS:
        value = config.get(key)
        if value is not None and not isinstance(value, bool):
            raise FormatError(f"{where}: {key} is {quoted(value)}, expected true or false")
    names = config.get("modules_to_save") or []
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise FormatError(
            f"{where}: modules_to_save is {quoted(names)}, expected a list of names of modules"
        )


def _patterns(
    config: Mapping[str, Any],
    key: str,
    check: Callable[[Any, str, str], _Number],
    budget: Budget,
    where: str,
) -> NamePatterns[_Number]:
    """Return rank_pattern or alpha_pattern, its values checked."""
    table = config.get(key) or {}
    if not isinstance(table, dict):
        raise FormatError(f"{where}: {key} is {quoted(table)}, expected an object")
    patterns: NamePatterns[_Number] = NamePatterns(budget)
    for name, value in table.items():
        label = f"{key} {quoted(name)}"
        try:
            patterns.add(name, check(value, label, where))
        except ValueError as error:
            raise FormatError(
                f"{where}: {key} has the key {quoted(name)}, which is no regular expression that"
                f" can be matched: {error}"
            ) from None
    return patterns


def _rank(value: Any, key: str, where: str) -> int:
    if type(value) is not int or value < 1:
        raise FormatError(f"{where}: {key} is {quoted(value)}, expected an integer of at least 1")
    return value


def _alpha(value: Any, key: str, where: str) -> float:
    try:
        number = float(value) if type(value) in {int, float} else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise FormatError(f"{where}: {key} is {quoted(value)}, expected a finite number")
    return number

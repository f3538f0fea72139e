"""What an adapter's config says about ranks and scales, and whether its change is plain LoRA."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from loragraft.adapter.patterns import Pattern
from loragraft.errors import FormatError
from loragraft.wording import quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

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
#: Values of init_lora_weights that also change the base weights when the adapter is loaded.
_MOVES_BASE: Final = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a LoraConfig says about ranks and scales."""

    where: str
    r: int
    lora_alpha: float
    rslora: bool
    ranks: tuple[tuple[Pattern, int], ...]
    alphas: tuple[tuple[Pattern, float], ...]

    @classmethod
    def parse(cls, config: Mapping[str, Any], where: str) -> Settings:
        """Check a config and take the settings out of it; FormatError where it cannot be used."""
        _check_plain(config, where)
        return cls(
            where=where,
            r=_rank(config.get("r", 8), "r", where),
            lora_alpha=_alpha(config.get("lora_alpha", 8), "lora_alpha", where),
            rslora=bool(config.get("use_rslora")),
            ranks=tuple(
                (pattern, _rank(value, key, where))
                for key, pattern, value in _patterns(config, "rank_pattern", where)
            ),
            alphas=tuple(
                (pattern, _alpha(value, key, where))
                for key, pattern, value in _patterns(config, "alpha_pattern", where)
            ),
        )

    def rank(self, module: str) -> int:
        """Return the module's rank: of the first pattern that matches, as PEFT does.

        Raises:
            FormatError: A pattern could take forever on this name; of `alpha` too.
        """
        fitting = (
            rank
            for pattern, rank in self.ranks
            if pattern.match(module, "rank_pattern", self.where)
        )
        return next(fitting, self.r)

    def alpha(self, module: str) -> float:
        """Return the module's alpha: of the first pattern that matches, as PEFT does."""
        fitting = (
            alpha
            for pattern, alpha in self.alphas
            if pattern.match(module, "alpha_pattern", self.where)
        )
        return next(fitting, self.lora_alpha)


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


def _patterns(config: Mapping[str, Any], key: str, where: str) -> list[tuple[str, Pattern, Any]]:
    """Return the entries of rank_pattern or alpha_pattern: (label, compiled pattern, value)."""
    table = config.get(key) or {}
    if not isinstance(table, dict):
        raise FormatError(f"{where}: {key} is {quoted(table)}, expected an object")
    entries = []
    for name, value in table.items():
        pattern = Pattern.parse(name, key, where, r"(.*\.)?({})$")
        entries.append((f"{key} {quoted(name)}", pattern, value))
    return entries


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

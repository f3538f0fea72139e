"""Reads adapters in PEFT's format: ``adapter_config.json`` beside ``adapter_model.safetensors``."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from loragraft.adapter.peft_config import CONFIG_FILE, TENSORS_FILE, factor_keys
from loragraft.errors import FormatError
from loragraft.input_file import read_bytes
from loragraft.json_text import parse_object
from loragraft.natural_order import natural_key
from loragraft.number_formats import WEIGHT_DTYPES
from loragraft.safetensors_header import read_identified_header
from loragraft.tensor_entry import TensorEntry
from loragraft.wording import quoted, shown

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping

_FACTOR: Final = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
_MAX_CONFIG_BYTES: Final = 64 * 1024 * 1024
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
    "target_parameters",
)
#: Values of init_lora_weights that also change the base weights when the adapter is loaded.
_MOVES_BASE: Final = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True, slots=True)
class AdapterModule:
    """The LoRA factors of one module: its weight changes by ``scaling``·B·A.

    Attributes:
        name: Module path, without ``base_model.model.`` and ``.lora_A.weight``.
        rank: Rows of A, columns of B.
        alpha: Alpha that applies to this module.
        scaling: alpha / rank, or alpha / √rank with rsLoRA.
        lora_A: A, shape ``(rank, in)``.
        lora_B: B, shape ``(out, rank)``.
    """

    name: str
    rank: int
    alpha: float
    scaling: float
    lora_A: TensorEntry  # noqa: N815 -- PEFT's names
    lora_B: TensorEntry  # noqa: N815


@dataclass(frozen=True, slots=True)
class PeftAdapter:
    """A LoRA adapter as its files describe it; no tensor is read yet.

    Attributes:
        directory: Where its files lie.
        config: Content of adapter_config.json.
        modules: Its modules in natural order.
        other_tensors: Tensors that are no LoRA factors, such as whole saved modules.
    """

    directory: Path
    config: Mapping[str, Any]
    modules: tuple[AdapterModule, ...]
    other_tensors: Mapping[str, TensorEntry]


def read_adapter(path: str | os.PathLike[str]) -> PeftAdapter:
    """Read an adapter's config and the header of its tensors.

    Args:
        path: The adapter's directory, or the tensor file in it.

    Raises:
        FormatError: A file is missing or malformed, the factors do not fit each other or the
            config, or the adapter is something other than plain LoRA.
    """
    directory, tensors_file = _locate(Path(path))
    config_file = directory / CONFIG_FILE
    if not config_file.exists():
        raise FormatError(
            f"{shown(directory)}: no {CONFIG_FILE}; expected a finished PEFT adapter: it is"
            " written last, so the run that made this was perhaps stopped"
        )
    config = parse_object(read_bytes(config_file, _MAX_CONFIG_BYTES), shown(config_file))
    settings = _Settings.parse(config, shown(config_file))
    pairs, others = _sort_tensors(_read_entries(tensors_file))
    if not pairs:
        raise FormatError(
            f"{shown(tensors_file)}: no LoRA factors; expected tensors named"
            f" {' and '.join(factor_keys('MODULE'))}"
        )
    modules = tuple(
        _module(name, pairs[name], settings, shown(tensors_file))
        for name in sorted(pairs, key=natural_key)
    )
    return PeftAdapter(directory, config, modules, others)


def _locate(path: Path) -> tuple[Path, Path]:
    """Return the adapter's directory and its tensor file."""
    if path.is_dir():
        tensors_file = path / TENSORS_FILE
        if not tensors_file.exists() and (path / "adapter_model.bin").exists():
            raise FormatError(
                f"{shown(path)}: adapter_model.bin is a pickle, which is never read; load it with"
                " PEFT and save it again to get adapter_model.safetensors"
            )
        if not tensors_file.exists():
            raise FormatError(f"{shown(path)}: no {TENSORS_FILE}; expected a PEFT adapter")
        return path, tensors_file
    if not path.exists():
        raise FormatError(f"{shown(path)}: no such directory; expected a PEFT adapter")
    return path.parent, path


def _read_entries(path: Path) -> list[TensorEntry]:
    header, identity = read_identified_header(path)
    return [
        TensorEntry(t.name, t.dtype, t.shape, path, t.begin, t.end - t.begin, identity)
        for t in header.tensors.values()
    ]


def _sort_tensors(
    entries: Iterable[TensorEntry],
) -> tuple[dict[str, dict[str, TensorEntry]], dict[str, TensorEntry]]:
    """Sort tensors into factors, module -> {"A": …, "B": …}, and the rest."""
    pairs: dict[str, dict[str, TensorEntry]] = {}
    others: dict[str, TensorEntry] = {}
    for entry in entries:
        match = _FACTOR.fullmatch(entry.name)
        if match is None:
            others[entry.name] = entry
        else:
            pairs.setdefault(match[1], {})[match[2]] = entry
    return pairs, others


def _module(
    name: str, pair: Mapping[str, TensorEntry], settings: _Settings, where: str
) -> AdapterModule:
    """Check one pair of factors against each other and the config."""
    for side in ("A", "B"):
        if side not in pair:
            raise FormatError(f"{where}: module {name} has no lora_{side}.weight; expected A and B")
        entry = pair[side]
        if entry.dtype not in WEIGHT_DTYPES or len(entry.shape) != 2 or 0 in entry.shape:
            raise FormatError(
                f"{where}: tensor {entry.name} is {entry.dtype} of shape {list(entry.shape)},"
                f" expected a matrix in one of {', '.join(WEIGHT_DTYPES)}"
            )
    lora_A, lora_B = pair["A"], pair["B"]
    rank = settings.rank(name)
    if lora_A.shape[0] != rank or lora_B.shape[1] != rank:
        raise FormatError(
            f"{where}: module {name} has A of shape {list(lora_A.shape)} and B of shape"
            f" {list(lora_B.shape)}, expected [{rank}, in] and [out, {rank}]: {CONFIG_FILE} gives"
            f" it rank {rank}"
        )
    alpha = settings.alpha(name)
    scaling = alpha / (math.sqrt(rank) if settings.rslora else rank)
    return AdapterModule(name, rank, alpha, scaling, lora_A, lora_B)


@dataclass(frozen=True, slots=True)
class _Settings:
    """What a LoraConfig says about ranks and scales."""

    r: int
    lora_alpha: float
    rslora: bool
    ranks: tuple[tuple[re.Pattern[str], int], ...]
    alphas: tuple[tuple[re.Pattern[str], float], ...]

    @classmethod
    def parse(cls, config: Mapping[str, Any], where: str) -> _Settings:
        """Check a config and take the settings out of it; FormatError where it cannot be used."""
        _check_plain(config, where)
        return cls(
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
        """Return the module's rank: of the first pattern that matches, as PEFT does."""
        return next((rank for pattern, rank in self.ranks if pattern.match(module)), self.r)

    def alpha(self, module: str) -> float:
        """Return the module's alpha: of the first pattern that matches, as PEFT does."""
        return next(
            (alpha for pattern, alpha in self.alphas if pattern.match(module)), self.lora_alpha
        )


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


def _patterns(
    config: Mapping[str, Any], key: str, where: str
) -> list[tuple[str, re.Pattern[str], Any]]:
    """Return the entries of rank_pattern or alpha_pattern: (label, compiled pattern, value)."""
    table = config.get(key) or {}
    if not isinstance(table, dict):
        raise FormatError(f"{where}: {key} is {quoted(table)}, expected an object")
    entries = []
    for name, value in table.items():
        try:
            pattern = re.compile(rf"(.*\.)?({name})$")
        except (re.error, RecursionError, OverflowError) as error:
            raise FormatError(
                f"{where}: {key} has the key {quoted(name)}, which is no regular expression:"
                f" {error}"
            ) from None
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

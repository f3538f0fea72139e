"""LoRA factors on an embedding, as the real PEFT loads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from loragraft.adapter.embedding import (
    embedding_factors,
    embedding_keys,
    transposed,
    why_not_factored,
)
from loragraft.adapter.peft import read_adapter
from loragraft.adapter.whole_plan import WholePlan
from loragraft.errors import FormatError
from loragraft.linalg import truncated_svd
from whole_files import (
    DEPRECATED,
    RANK,
    VOCABULARY,
    build,
    candidates_of,
    check,
    tune,
    write_adapter,
)

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings(f"ignore:{DEPRECATED}:FutureWarning")
Q = "model.layers.0.self_attn.q_proj"
EMBEDDING = "model.embed_tokens"


def delta() -> torch.Tensor:
    generator = torch.Generator().manual_seed(11)
    left = 0.3 * torch.randn(VOCABULARY, RANK, generator=generator)
    return left @ torch.randn(RANK, 16, generator=generator)


def factored(matrix: torch.Tensor) -> dict[str, torch.Tensor]:
    """A and B of a change of an embedding, by the way of its factors as it is stored."""
    svd = truncated_svd(matrix.numpy(), RANK)
    root = np.sqrt(svd.s)
    left = np.ascontiguousarray(svd.U * root, np.float32)
    right = np.ascontiguousarray(root[:, None] * svd.Vt, np.float32)
    shape = (matrix.shape[0], matrix.shape[1])
    a, b = embedding_factors(left.tobytes(), right.tobytes(), shape, RANK, "F32")
    key_a, key_b = embedding_keys(EMBEDDING)
    return {
        key_a: torch.frombuffer(bytearray(a), dtype=torch.float32).reshape(RANK, shape[0]),
        key_b: torch.frombuffer(bytearray(b), dtype=torch.float32).reshape(shape[1], RANK),
    }


def change(model: Any) -> None:
    model.get_input_embeddings().weight.add_(delta())


def test_factors_of_an_embedding_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = tune(build("llama", tmp_path / "base"), tmp_path / "tuned", (Q,), change)
    assert why_not_factored(EMBEDDING, "") == ""
    adapter = write_adapter(
        tmp_path / "out", pair, WholePlan(), factored(delta()), embeddings=(EMBEDDING,)
    )
    check(pair, adapter, monkeypatch)
    read = read_adapter(adapter)
    found = next(module for module in read.modules if module.name == EMBEDDING)
    assert (found.lora_A.shape, found.lora_B.shape) == ((RANK, VOCABULARY), (16, RANK))
    assert read.other_tensors == {}


def test_one_factor_alone_is_refused(tmp_path: Path) -> None:
    pair = tune(build("llama", tmp_path / "base"), tmp_path / "tuned", (Q,), change)
    alone = {embedding_keys(EMBEDDING)[0]: torch.ones(RANK, VOCABULARY)}
    adapter = write_adapter(tmp_path / "out", pair, WholePlan(), alone, embeddings=(EMBEDDING,))
    with pytest.raises(FormatError, match=rf"module {EMBEDDING} has no lora_B"):
        read_adapter(adapter)


def test_scaled_embedding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gemma multiplies what its embedding says; PEFT knows."""
    base = build("gemma3_text", tmp_path / "base", tie_word_embeddings=False)
    pair = tune(base, tmp_path / "tuned", (Q,), change)
    adapter = write_adapter(
        tmp_path / "out", pair, WholePlan(), factored(delta()), embeddings=(EMBEDDING,)
    )
    check(pair, adapter, monkeypatch)


def test_tied_embeddings_are_refused(tmp_path: Path) -> None:
    pair = tune(build("qwen2", tmp_path / "base"), tmp_path / "tuned", (Q,), change)
    embedding, head = candidates_of(pair).tied
    assert "lm_head, and PEFT merges an adapter on both twice" in why_not_factored(embedding, head)


@pytest.mark.parametrize(("rows", "columns"), [(1, 7), (3, 5), (5, 3), (6, 1)])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_transposition(rows: int, columns: int, dtype: Any) -> None:
    matrix = np.arange(rows * columns).reshape(rows, columns).astype(dtype)
    turned = transposed(matrix.tobytes(), rows, columns, matrix.itemsize)
    assert turned == np.ascontiguousarray(matrix.T).tobytes()
